//! What the node says: results on stdout, reasons on stderr.

use std::{
    error::Error,
    fmt,
    io::{self, Write as _},
};

use libp2p::swarm::DialError;

/// Nobody reads the results any more: the end, but no failure.
#[derive(Debug)]
pub(crate) struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody reads the results")
    }
}

impl Error for Closed {}

/// One line on stdout, a result as a rule. Flushed, for a reader at the other end of a pipe waits for it.
pub(crate) fn print(line: &str) -> Result<(), Box<dyn Error>> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Closed.into()),
        result => Ok(result?),
    }
}

/// One line on stderr.
pub(crate) fn complain(reason: &str) {
    // There is nobody left to tell that it does not work.
    writeln!(io::stderr(), "node: {reason}").ok();
}

/// Text of a peer as a JSON string.
pub(crate) fn quote(text: &str) -> String {
    let mut json = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => json.extend(['\\', c]),
            c if c.is_control() => json.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => json.push(c),
        }
    }
    json.push('"');
    json
}

/// An error with all its causes. Leaves out empty texts and repeated ones, of which errors of libp2p are full: some print
/// their causes themselves.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(DialError::Transport(addresses)) = error.downcast_ref() {
            let mut reasons = addresses
                .iter()
                .map(|(address, error)| format!("{address}: {}", chain(error)));
            parts.extend(reasons.next());
            for reason in reasons {
                if let Some(last) = parts.last_mut() {
                    *last = format!("{last}; {reason}");
                }
            }
            break;
        }
        let text = error.to_string();
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        next = error.source();
    }
    let text = parts.join(": ");
    let mut texts: Vec<_> = text.split(": ").filter(|text| !text.is_empty()).collect();
    texts.dedup();
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use libp2p::{Multiaddr, TransportError};

    use super::*;

    #[test]
    fn leaves_out_empty_and_repeated_texts() {
        let inner = io::Error::other(libp2p_rtc::Error::ZeroPort);
        let error: TransportError<io::Error> = TransportError::Other(io::Error::other(inner));
        assert_eq!(error.to_string(), "");
        assert_eq!(chain(&error), "port zero cannot be dialed");
    }

    #[test]
    fn tidies_an_error_that_prints_its_causes_itself() {
        let error = io::Error::other("Apply: : cannot read: reset: reset");
        assert_eq!(chain(&error), "Apply: cannot read: reset");
    }

    #[test]
    fn tells_the_reason_of_every_address() {
        let failed = |addr: &str, error| {
            let addr: Multiaddr = addr.parse().expect("an address");
            (addr, TransportError::Other(io::Error::other(error)))
        };
        let error = DialError::Transport(vec![
            failed("/ip4/192.0.2.1/udp/1", libp2p_rtc::Error::Refused),
            failed("/ip4/192.0.2.2/udp/1", libp2p_rtc::Error::NoCerthash),
        ]);
        assert_eq!(
            chain(&error),
            "/ip4/192.0.2.1/udp/1: nobody listens at the remote address; \
             /ip4/192.0.2.2/udp/1: the address has no certificate hash"
        );
    }
}
