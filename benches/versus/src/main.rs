//! Compares `libp2p-rtc` with upstream `libp2p-webrtc` and `libp2p-quic` on loopback.
//!
//! Three roles in one program: without a subcommand it runs every row for every transport, each
//! as a `cell` process; a `cell` measures and dials; it starts a `serve` process as its listener.
//! Results are JSON lines on standard output and a markdown table at the end.

mod amounts;
mod child;
mod dialer;
mod exchange;
mod forwarder;
mod measure;
mod node;
mod proc;
mod rng;
mod serve;
mod stun;
mod suite;
mod table;
mod transports;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{
    amounts::Amounts,
    measure::{Cell, Row},
    serve::ServeArgs,
    transports::Kind,
};

/// Any error of a measurement; it ends up as text in the results.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The command line.
#[derive(Debug, Parser)]
#[command(about = "Measures libp2p-rtc against libp2p-webrtc and libp2p-quic")]
struct Args {
    /// What to do instead of the whole comparison.
    #[command(subcommand)]
    role: Option<Role>,
    /// Measures only this row; may be given several times.
    #[arg(long)]
    only: Vec<Row>,
    /// Measures only this transport; may be given several times.
    #[arg(long)]
    transport: Vec<Kind>,
    /// A tenth of the amounts.
    #[arg(long)]
    quick: bool,
}

/// The roles the program starts itself in.
#[derive(Debug, Subcommand)]
enum Role {
    /// Listens and answers questions about itself.
    #[command(hide = true)]
    Serve(ServeArgs),
    /// Measures one row for one transport.
    #[command(hide = true)]
    Cell {
        /// The row.
        #[arg(long)]
        row: Row,
        /// The transport.
        #[arg(long)]
        transport: Kind,
        /// A tenth of the amounts.
        #[arg(long)]
        quick: bool,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    // Only what RUST_LOG asks for; nothing by default, logging costs time.
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    transports::choose_provider();
    let args = Args::parse();
    let outcome = match args.role {
        Some(Role::Serve(serve)) => serve::run(serve).await,
        Some(Role::Cell {
            row,
            transport: kind,
            quick,
        }) => {
            let amounts = Amounts::of(kind, quick);
            Cell { row, kind, amounts }.run().await
        }
        None => suite::run(&args.only, &args.transport, args.quick).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("versus: {error}");
            ExitCode::FAILURE
        }
    }
}
