//! TLS to TURN servers (RFC 7065 `turns:`), where the build has it.

#[cfg(feature = "websocket")]
pub(super) use self::with_tls::Tls;
#[cfg(not(feature = "websocket"))]
pub(super) use self::without_tls::Tls;

#[cfg(feature = "websocket")]
mod with_tls {
    use std::{io, sync::Arc};

    use tokio::{net::TcpStream, sync::OnceCell, task::spawn_blocking};
    use tokio_rustls::{
        TlsConnector,
        rustls::{ClientConfig, pki_types::ServerName},
    };

    use crate::{
        transport::call::{config::CallConfig, flow::ByteStream},
        websocket::TlsRoots,
    };

    /// Whom we believe.
    #[derive(Debug)]
    pub(in crate::transport::call) struct Tls {
        roots: TlsRoots,
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
                .await?;
            let connector = TlsConnector::from(Arc::clone(config));
            Ok(Box::new(connector.connect(name, stream).await?))
        }
    }

    async fn load(roots: TlsRoots) -> io::Result<Arc<ClientConfig>> {
        let mut config = spawn_blocking(move || roots.config()).await??;
        // It names HTTP, which is not what is spoken here.
        Arc::make_mut(&mut config).alpn_protocols.clear();
        Ok(config)
    }
}

#[cfg(not(feature = "websocket"))]
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
