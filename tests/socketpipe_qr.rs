//! The QR code of the program `socketpipe`, as a camera sees it on the screen of a terminal.
#![cfg(all(feature = "gateway", unix))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(
    clippy::disallowed_methods,
    reason = "what the tests wait for takes real time"
)]

mod socketpipe_gateway_common;

use std::{
    fs,
    process::{Command, Stdio},
};

use crate::socketpipe_gateway_common::{AtTerminal, Directory, Lines, PROGRAM};

/// Pixels of one module; a character is one module wide and two high.
const SCALE: usize = 4;
/// Empty modules around the text.
const MARGIN: usize = 6;

/// Colours of a terminal, as brightness.
#[derive(Clone, Copy, Debug)]
struct Theme {
    text: u8,
    background: u8,
}

const THEMES: [Theme; 2] = [
    Theme {
        text: 0xd0,
        background: 0x10,
    },
    Theme {
        text: 0x20,
        background: 0xf8,
    },
];

/// The rows of modules these lines draw, two for each line.
fn modules(lines: &[&str], theme: Theme) -> Vec<Vec<u8>> {
    lines.iter().flat_map(|line| draw(line, theme)).collect()
}

/// Upper and lower row of one line with half blocks and colours of the 256.
fn draw(line: &str, theme: Theme) -> [Vec<u8>; 2] {
    let (mut upper, mut lower) = (Vec::new(), Vec::new());
    let mut ink = theme;
    let mut rest = line.chars();
    while let Some(letter) = rest.next() {
        let (above, below) = match letter {
            '\x1b' => {
                let codes: String = rest.by_ref().take_while(|letter| *letter != 'm').collect();
                ink = colours(&codes, ink, theme);
                continue;
            }
            '█' => (ink.text, ink.text),
            '▀' => (ink.text, ink.background),
            '▄' => (ink.background, ink.text),
            ' ' => (ink.background, ink.background),
            other => panic!("`{other}` in a QR code"),
        };
        upper.push(above);
        lower.push(below);
    }
    [upper, lower]
}

fn colours(codes: &str, ink: Theme, theme: Theme) -> Theme {
    let brightness = |code: &str| match code {
        "16" => 0x00,
        "231" => 0xff,
        other => panic!("colour {other}"),
    };
    let codes: Vec<_> = codes.trim_start_matches('[').split(';').collect();
    match codes[..] {
        ["0"] => theme,
        ["38", "5", text, "48", "5", background] => Theme {
            text: brightness(text),
            background: brightness(background),
        },
        _ => panic!("{codes:?} after {ink:?}"),
    }
}

/// What a camera reads from the screen.
fn scan(modules: &[Vec<u8>], theme: Theme) -> Option<String> {
    let columns = modules.iter().map(Vec::len).max()? + 2 * MARGIN;
    let rows = modules.len() + 2 * MARGIN;
    let pixel = |x: usize, y: usize| {
        let row = (y / SCALE).checked_sub(MARGIN);
        let column = (x / SCALE).checked_sub(MARGIN);
        let row = row.and_then(|row| modules.get(row));
        let module = row.zip(column).and_then(|(row, column)| row.get(column));
        module.copied().unwrap_or(theme.background)
    };
    let (width, height) = (columns * SCALE, rows * SCALE);
    let mut image = rqrr::PreparedImage::prepare_from_greyscale(width, height, pixel);
    let found = image.detect_grids().into_iter();
    found
        .filter_map(|grid| grid.decode().ok())
        .map(|(_, text)| text)
        .next()
}

/// What `serve` shows at its start in a wide terminal.
fn serve(state: &Directory, args: &[&str]) -> String {
    let args = [&["serve"], args].concat();
    let mut terminal = AtTerminal::start(state.path(), &args, 200, 50);
    let shown = terminal.await_text("makes more");
    terminal.type_in("\x03");
    assert_eq!(terminal.finish().1, 0);
    shown
}

/// The rest of the line that begins so.
fn line<'a>(shown: &'a str, start: &str) -> &'a str {
    let found = shown.lines().find_map(|line| line.strip_prefix(start));
    found
        .unwrap_or_else(|| panic!("no `{start}` in: {shown}"))
        .trim()
}

fn assert_code_says(shown: &str, text: &str) {
    let code: Vec<_> = shown
        .lines()
        .filter(|line| line.contains(['█', '▀']))
        .collect();
    for theme in THEMES {
        let read = scan(&modules(&code, theme), theme);
        assert_eq!(read.as_deref(), Some(text), "{theme:?}");
    }
}

#[test]
fn the_qr_code_leads_to_the_page_on_dark_and_on_light_terminals() {
    let shown = serve(&Directory::new(), &[]);
    assert_code_says(&shown, line(&shown, "open  "));
}

#[test]
fn where_others_cannot_open_the_page_the_qr_code_is_the_invitation() {
    let state = Directory::new();
    let config = state.path().join("config.toml");
    let announce = "announce = [\"/ip4/192.0.2.1/tcp/4001\"]";
    fs::write(&config, format!("[libp2p]\n{announce}\n")).unwrap();
    let shown = serve(&state, &["--config", config.to_str().unwrap()]);
    assert!(line(&shown, "open here").starts_with("http://127.0.0.1:"));
    assert_code_says(&shown, line(&shown, "invitation"));
}

#[test]
fn a_narrow_terminal_gets_a_sentence_in_place_of_a_broken_code() {
    let state = Directory::new();
    let mut terminal = AtTerminal::start(state.path(), &["serve"], 80, 24);
    let shown = terminal.await_text("makes more");
    assert!(shown.contains("(a QR code needs a terminal of "), "{shown}");
    assert!(!shown.contains('█'), "{shown}");
    terminal.type_in("\x03");
    assert_eq!(terminal.finish().1, 0);
}

#[test]
fn what_goes_to_a_file_or_a_pipe_has_no_code() {
    let state = Directory::new();
    let mut child = Command::new(PROGRAM)
        .arg("--state")
        .arg(state.path())
        .arg("serve")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = Lines::read(child.stdout.take().unwrap());
    lines.find_line("last line", |line| line.contains("makes more"));
    child.kill().unwrap();
    child.wait().unwrap();
    let shown = lines.all();
    assert!(shown.iter().any(|line| line.starts_with("invitation ")));
    assert!(
        !shown.iter().any(|line| line.contains(['█', '▀', '\x1b'])),
        "{shown:?}"
    );
}
