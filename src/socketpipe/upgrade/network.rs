//! Whether this machine has other addresses than before.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    task::{Context, Poll},
};

use crate::transport::watcher::{Change, Watcher};

/// Watches the addresses of the network interfaces, from the first call of [`Self::watch`] on.
#[derive(Default)]
pub(super) struct Network {
    /// Systems that list nothing just have no changes.
    watcher: Option<Result<Watcher, ()>>,
    known: BTreeSet<IpAddr>,
}

impl Network {
    /// Takes in what has happened. Wakes the task of `cx` when more does.
    pub(super) fn watch(&mut self, cx: &mut Context<'_>) {
        let watcher = self.watcher.get_or_insert_with(|| {
            Watcher::new().map_err(|error| {
                tracing::debug!(%error, "changes of the network are not seen");
            })
        });
        while let Ok(watching) = watcher
            && let Poll::Ready(change) = watching.poll(cx)
        {
            if let Change::Failed(error) = change {
                tracing::debug!(%error, "changes of the network are seen no longer");
                *watcher = Err(());
            }
        }
    }

    fn addresses(&self) -> BTreeSet<IpAddr> {
        match &self.watcher {
            Some(Ok(watcher)) => watcher.addresses().collect(),
            _ => BTreeSet::new(),
        }
    }

    /// The addresses of this moment are those to compare with.
    pub(super) fn remember(&mut self) {
        self.known = self.addresses();
    }

    /// Whether the addresses are others than those remembered.
    pub(super) fn has_changed(&mut self) -> bool {
        let Some(Ok(watcher)) = &self.watcher else {
            return false;
        };
        if watcher.is_listing() {
            self.remember();
            return false;
        }
        self.addresses() != self.known
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::{process::Command, time::Duration};

    use super::*;
    use crate::transport::watcher::LISTING;

    /// Set for the test that runs in a network of its own.
    const INSIDE: &str = "SOCKETPIPE_TEST_NETWORK";

    fn ip(args: &[&str]) {
        let status = Command::new("ip").args(args).status().unwrap();
        assert!(status.success(), "ip {args:?}");
    }

    /// Waits until the system has told of this many addresses.
    async fn until(network: &mut Network, count: usize) {
        let all = std::future::poll_fn(|cx| {
            network.watch(cx);
            match network.addresses().len() {
                known if known == count => Poll::Ready(()),
                _ => Poll::Pending,
            }
        });
        let told = tokio::time::timeout(Duration::from_secs(30), all).await;
        assert!(told.is_ok(), "{:?}", network.addresses());
    }

    #[test]
    fn a_new_address_is_a_change_and_the_first_list_is_none() {
        let inside = std::env::var_os(INSIDE).is_some();
        if !inside {
            let name = "a_new_address_is_a_change_and_the_first_list_is_none";
            let run = Command::new("unshare")
                .args(["--net", "--map-root-user"])
                .arg(std::env::current_exe().unwrap())
                .args([name, "--nocapture"])
                .env(INSIDE, "1")
                .output();
            match run {
                Ok(output) if output.status.success() => {}
                Ok(output) if String::from_utf8_lossy(&output.stderr).contains("unshare:") => {
                    eprintln!("skipped: no network namespace can be made here");
                }
                Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
                Err(error) => eprintln!("skipped: unshare cannot be run: {error}"),
            }
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            ip(&["link", "set", "lo", "up"]);
            ip(&["address", "add", "192.0.2.1/32", "dev", "lo"]);
            let mut network = Network::default();
            until(&mut network, 3).await;
            assert!(!network.has_changed(), "that is the first list");
            // Nothing has to happen in that time, so it need not pass.
            tokio::time::pause();
            tokio::time::advance(LISTING).await;
            tokio::time::resume();
            assert!(!network.has_changed());
            ip(&["address", "add", "192.0.2.2/32", "dev", "lo"]);
            until(&mut network, 4).await;
            assert!(network.has_changed());
            network.remember();
            assert!(!network.has_changed());
            ip(&["address", "delete", "192.0.2.1/32", "dev", "lo"]);
            until(&mut network, 3).await;
            assert!(network.has_changed());
        });
    }
}
