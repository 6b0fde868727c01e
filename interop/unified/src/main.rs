//! `unified transport` and `unified perf`: libp2p-rtc in the two suites of <https://github.com/libp2p/unified-testing>.
//!
//! The suites start two containers with the same image, tell them by environment variables who listens and who dials,
//! and let them meet through a Redis. Everything but the results goes to stderr.

mod board;
mod node;
mod perf_suite;
mod settings;
mod statistics;
mod transport_suite;

use std::process::ExitCode;

use crate::settings::Settings;

/// Any error; it ends up as text on stderr.
type Failure = Box<dyn std::error::Error + Send + Sync>;

const USAGE: &str = "usage: unified transport|perf";

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = run().await;
    if let Err(error) = outcome {
        eprintln!("unified: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

async fn run() -> Result<(), Failure> {
    let settings = Settings::from_env(|name| std::env::var(name).ok())?;
    let level = if settings.debug {
        "libp2p=debug"
    } else {
        "warn"
    };
    tracing_subscriber::fmt()
        .with_env_filter(level)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let suite = std::env::args().nth(1).ok_or(USAGE)?;
    match (suite.as_str(), settings.is_dialer) {
        ("transport", true) => transport_suite::dial(&settings).await,
        ("transport", false) => transport_suite::listen(&settings).await,
        ("perf", true) => perf_suite::dial(&settings).await,
        ("perf", false) => perf_suite::listen(&settings).await,
        _ => Err(USAGE.into()),
    }
}
