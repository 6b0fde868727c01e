//! The command line: what it may say, and what is wrong with it.

use std::{error::Error, fmt::Display, str::FromStr};

use libp2p::Multiaddr;
use libp2p_rtc::DialMode;

pub(crate) const USAGE: &str = "usage: node listen [MULTIADDR] [--seed N]
       node dial MULTIADDR [--ice auto|v1|v2] [--pings N] [--echo BYTES] [--streams N] [--seed N]

listen   prints the addresses to dial and serves ping, identify, /echo/1.0.0 and /perf/1.0.0
         until SIGINT or SIGTERM; without MULTIADDR on all interfaces, on a free port
dial     connects, waits for identify and pings, checks what the options ask for, closes

--seed N             the identity made of this number: the same address at every start
                     (default: a new identity; for tests only, anybody can compute it)
--ice auto|v1|v2     form of the handshake (default auto: v1, then v2 beside it)
--pings N            wait for N answered pings (default 1)
--echo BYTES         have so many bytes echoed on one stream and compare them (default 0: no check)
--streams N          open N streams in turn, then N at once, each with an echo (default 0: no check)

Results are lines of JSON on stdout. RUST_LOG=libp2p_rtc=debug logs to stderr.";

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Command {
    Help,
    Listen(Options),
    Dial(Options),
}

/// How.
#[derive(Debug, Default)]
pub(crate) struct Options {
    pub(crate) addr: Option<Multiaddr>,
    pub(crate) seed: Option<u64>,
    pub(crate) ice: DialMode,
    pub(crate) pings: Option<usize>,
    pub(crate) echo: usize,
    pub(crate) streams: usize,
}

/// A reason, and how it should be.
fn wrong(reason: impl Display) -> Box<dyn Error> {
    format!("{reason}\n{USAGE}").into()
}

/// Reads the arguments after the program's name.
pub(crate) fn parse(args: impl Iterator<Item = String>) -> Result<Command, Box<dyn Error>> {
    let mut args: Vec<_> = args.collect();
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        return Ok(Command::Help);
    }
    if args.is_empty() {
        return Err(wrong("a command is missing"));
    }
    match args.remove(0).as_str() {
        "listen" => Ok(Command::Listen(options(&["--seed"], args)?)),
        "dial" => {
            let known = ["--seed", "--ice", "--pings", "--echo", "--streams"];
            let options = options(&known, args)?;
            if options.addr.is_none() {
                return Err(wrong("an address to dial is missing"));
            }
            Ok(Command::Dial(options))
        }
        other => Err(wrong(format!("there is no command {other}"))),
    }
}

/// Reads what follows the command, of which only some options are `known`.
fn options(known: &[&str], args: Vec<String>) -> Result<Options, Box<dyn Error>> {
    let mut options = Options::default();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        if !arg.starts_with('-') {
            if options.addr.is_some() {
                return Err(wrong(format!("{arg}: one address is enough")));
            }
            let addr = arg.parse().map_err(|error| format!("{arg}: {error}"))?;
            options.addr = Some(addr);
            continue;
        }
        if !known.contains(&arg.as_str()) {
            return Err(wrong(format!("{arg}: not an option of this command")));
        }
        let value = args
            .next()
            .ok_or_else(|| wrong(format!("{arg}: its value is missing")))?;
        match arg.as_str() {
            "--seed" => options.seed = Some(number(&arg, &value)?),
            "--ice" => options.ice = mode(&value)?,
            "--pings" => options.pings = Some(number(&arg, &value)?),
            "--echo" => options.echo = number(&arg, &value)?,
            _ => options.streams = number(&arg, &value)?,
        }
    }
    Ok(options)
}

fn number<N: FromStr<Err: Display>>(option: &str, value: &str) -> Result<N, Box<dyn Error>> {
    value
        .parse()
        .map_err(|error| format!("{option} {value}: {error}").into())
}

fn mode(value: &str) -> Result<DialMode, Box<dyn Error>> {
    match value {
        "auto" => Ok(DialMode::Auto),
        "v1" => Ok(DialMode::V1),
        "v2" => Ok(DialMode::V2),
        _ => Err(format!("--ice {value}: it is auto, v1 or v2").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(text: &str) -> Result<Command, String> {
        parse(text.split_whitespace().map(str::to_owned)).map_err(|error| error.to_string())
    }

    fn reason(text: &str) -> String {
        let error = parse_text(text).expect_err("it is wrong");
        error.lines().next().unwrap_or_default().to_owned()
    }

    #[test]
    fn reads_every_option() {
        let Ok(Command::Dial(options)) = parse_text(
            "dial /ip4/127.0.0.1/udp/1/webrtc-direct --ice v2 --pings 3 --echo 4 --streams 5 --seed 6",
        ) else {
            panic!("it is right");
        };
        assert_eq!(options.ice, DialMode::V2);
        assert_eq!((options.pings, options.seed), (Some(3), Some(6)));
        assert_eq!((options.echo, options.streams), (4, 5));
        assert!(options.addr.is_some());
    }

    #[test]
    fn help_is_no_error() {
        for text in ["--help", "-h", "dial --help", "listen --seed -h"] {
            assert!(matches!(parse_text(text), Ok(Command::Help)), "{text}");
        }
    }

    #[test]
    fn names_what_is_wrong() {
        for (text, expected) in [
            ("", "a command is missing"),
            ("serve", "there is no command serve"),
            ("dial", "an address to dial is missing"),
            (
                "listen /ip4/1.2.3.4 /ip4/1.2.3.5",
                "/ip4/1.2.3.5: one address is enough",
            ),
            ("listen --pings 3", "--pings: not an option of this command"),
            ("dial --twice 3", "--twice: not an option of this command"),
            ("listen --seed", "--seed: its value is missing"),
            ("listen --seed x", "--seed x: invalid digit found in string"),
            ("dial --ice v3", "--ice v3: it is auto, v1 or v2"),
        ] {
            assert_eq!(reason(text), expected);
        }
        assert!(reason("dial 127.0.0.1").starts_with("127.0.0.1: "));
    }
}
