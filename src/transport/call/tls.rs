//! TLS to TURN servers (RFC 7065 `turns:`), where the build has it.

#[cfg(feature = "gateway")]
pub(super) use self::with_tls::Tls;
#[cfg(not(feature = "gateway"))]
pub(super) use self::without_tls::Tls;

#[cfg(feature = "gateway")]
mod with_tls {
    use std::{io, path::PathBuf, sync::Arc};

    use tokio::{net::TcpStream, sync::OnceCell, task::spawn_blocking};
    use tokio_rustls::{
        TlsConnector,
        rustls::{
            ClientConfig, RootCertStore,
            crypto::aws_lc_rs,
            pki_types::{CertificateDer, ServerName, pem::PemObject as _},
        },
    };

    use crate::transport::call::{config::CallConfig, flow::ByteStream};

    /// Whom we believe.
    #[derive(Debug)]
    pub(in crate::transport::call) struct Tls {
        roots: Option<PathBuf>,
        /// Made when it is first needed: reading the certificates of the system takes a while.
        config: OnceCell<Arc<ClientConfig>>,
    }

    impl Tls {
        pub(in crate::transport::call) fn new(config: &CallConfig) -> Self {
            Self {
                roots: config.tls_roots.clone(),
                config: OnceCell::new(),
            }
        }

        /// TLS on `stream`, with the server of that name.
        pub(in crate::transport::call) async fn connect(
            &self,
            stream: TcpStream,
            host: &str,
        ) -> io::Result<Box<dyn ByteStream>> {
            let name = ServerName::try_from(host.to_owned())
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
            let config = self
                .config
                .get_or_try_init(|| load(self.roots.clone()))
                .await;
            let config = config.inspect_err(|error| {
                // A fault of the configuration or the system, not of the server.
                tracing::warn!(%error, "turns: servers cannot be used");
            })?;
            let connector = TlsConnector::from(Arc::clone(config));
            Ok(Box::new(connector.connect(name, stream).await?))
        }
    }

    async fn load(roots: Option<PathBuf>) -> io::Result<Arc<ClientConfig>> {
        spawn_blocking(move || make(roots)).await?.map(Arc::new)
    }

    fn make(roots: Option<PathBuf>) -> io::Result<ClientConfig> {
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
        let certificates = match &roots {
            None => rustls_native_certs::load_native_certs().certs,
            Some(file) => CertificateDer::pem_file_iter(file)
                .and_then(Iterator::collect)
                .map_err(|error| invalid(format!("{}: {error}", file.display())))?,
        };
        let mut store = RootCertStore::empty();
        // Systems carry some that no library can read.
        if store.add_parsable_certificates(certificates).0 == 0 {
            return Err(invalid(
                "there are no root certificates to judge servers by".into(),
            ));
        }
        // Several libraries in one program bring their own cryptography: it is named, never guessed.
        ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map(|builder| builder.with_root_certificates(store).with_no_client_auth())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
    }
}

#[cfg(not(feature = "gateway"))]
mod without_tls {
    use std::io;

    use tokio::net::TcpStream;

    use crate::transport::call::{config::CallConfig, flow::ByteStream};

    /// There is none: a `turns:` address is refused where it is read.
    #[derive(Debug)]
    pub(in crate::transport::call) struct Tls;

    impl Tls {
        pub(in crate::transport::call) fn new(_config: &CallConfig) -> Self {
            Self
        }

        #[expect(clippy::unused_async, reason = "the same call as with TLS")]
        pub(in crate::transport::call) async fn connect(
            &self,
            _stream: TcpStream,
            _host: &str,
        ) -> io::Result<Box<dyn ByteStream>> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }
}
