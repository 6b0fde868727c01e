//! The interoperability peer made of upstream `libp2p-webrtc` 0.10.0-alpha: v1 only, both directions.

use std::{fs, path::PathBuf, process::ExitCode};

use interop_peer::{Failure, Implementation, Muxed, Settings};
use libp2p::{Transport as _, core::muxing::StreamMuxerBox};
use libp2p_webrtc::tokio::{Certificate, Transport};

#[tokio::main]
async fn main() -> ExitCode {
    choose_provider();
    interop_peer::run(&Implementation {
        name: "rust-upstream",
        version: "libp2p-webrtc 0.10.0-alpha",
        listens_to_dial: true,
        transport,
    })
    .await
}

/// Upstream's transport.
fn transport(settings: &Settings) -> Result<Muxed, Failure> {
    let certificate = certificate(settings.seed)?;
    Ok(Transport::new(settings.key.clone(), certificate)
        .map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)))
        .boxed())
}

/// Upstream derives no certificate from a key: who wants the same address after a restart has to store one. The
/// program does so in the folder for temporary files, for those that are started with a seed.
fn certificate(seed: Option<u64>) -> Result<Certificate, Failure> {
    let Some(seed) = seed else {
        return Ok(Certificate::generate(&mut rand::rng())?);
    };
    let path = store().join(format!("rust-upstream-{seed}.pem"));
    if let Ok(text) = fs::read_to_string(&path) {
        return Ok(Certificate::from_pem(&text)?);
    }
    let certificate = Certificate::generate(&mut rand::rng())?;
    fs::write(&path, certificate.serialize_pem())?;
    Ok(certificate)
}

/// Where certificates are stored.
fn store() -> PathBuf {
    std::env::var_os("CERTIFICATES").map_or_else(std::env::temp_dir, PathBuf::from)
}

/// Chooses the cryptography of `libp2p-webrtc` for this process.
///
/// Its DTLS takes the process-wide default of rustls. When another crate of the same build enables a second provider
/// (libp2p-quic enables aws-lc-rs, webrtc enables ring) there is no default, and upstream panics on every connection.
fn choose_provider() {
    // It only fails when a choice was made already.
    drop(rustls::crypto::ring::default_provider().install_default());
}
