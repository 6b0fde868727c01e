//! The Redis through which listener and dialer find each other.
//!
//! The two suites differ: the transport suite uses a list (RPUSH, BLPOP), the perf suite a plain value (SET, GET).

use std::time::Duration;

use redis::{AsyncCommands as _, aio::MultiplexedConnection};
use tokio::time;

use crate::{Failure, settings::Settings};

/// How long a dialer waits for the listener's address.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often a plain value is asked for.
const POLL: Duration = Duration::from_millis(250);

/// A connection to it.
pub(crate) struct Board {
    redis: MultiplexedConnection,
    key: String,
}

impl Board {
    /// Connects.
    pub(crate) async fn connect(settings: &Settings) -> Result<Self, Failure> {
        let client = redis::Client::open(format!("redis://{}", settings.redis))?;
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        Ok(Self {
            redis: client
                .get_multiplexed_async_connection_with_config(&config)
                .await?,
            key: settings.address_key(),
        })
    }

    /// Transport suite, listener.
    pub(crate) async fn push(&mut self, addr: &str) -> Result<(), Failure> {
        let () = self.redis.del(&self.key).await?;
        Ok(self.redis.rpush(&self.key, addr).await?)
    }

    /// Transport suite, dialer.
    pub(crate) async fn pop(&mut self) -> Result<String, Failure> {
        let seconds = PATIENCE.as_secs_f64() / 2.0;
        let popped: Option<(String, String)> = self.redis.blpop(&self.key, seconds).await?;
        Ok(popped.ok_or("no listener has left its address")?.1)
    }

    /// Perf suite, listener.
    pub(crate) async fn set(&mut self, addr: &str) -> Result<(), Failure> {
        Ok(self.redis.set(&self.key, addr).await?)
    }

    /// Perf suite, dialer.
    pub(crate) async fn get(&mut self) -> Result<String, Failure> {
        let asked = async {
            loop {
                let found: Option<String> = self.redis.get(&self.key).await?;
                if let Some(addr) = found.filter(|addr| !addr.is_empty()) {
                    return Ok(addr);
                }
                time::sleep(POLL).await;
            }
        };
        time::timeout(PATIENCE, asked)
            .await
            .map_err(|_| "no listener has left its address")?
    }
}
