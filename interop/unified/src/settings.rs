//! What the suites say in environment variables.

use std::{net::IpAddr, str::FromStr};

use crate::Failure;

/// All of it. Names and defaults are those of the suites.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) debug: bool,
    pub(crate) is_dialer: bool,
    /// Host and port.
    pub(crate) redis: String,
    /// Keeps the keys of one test apart from those of another.
    pub(crate) test_key: String,
    pub(crate) listener_ip: IpAddr,
    pub(crate) upload_bytes: u64,
    pub(crate) download_bytes: u64,
    pub(crate) upload_iterations: usize,
    pub(crate) download_iterations: usize,
    pub(crate) latency_iterations: usize,
}

impl Settings {
    /// Reads them through `variable`.
    pub(crate) fn from_env(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let required =
            |name: &str| variable(name).ok_or_else(|| Failure::from(format!("{name} is not set")));
        if let Some(transport) = variable("TRANSPORT").filter(|name| name != "webrtc-direct") {
            return Err(format!("TRANSPORT is {transport}, but only webrtc-direct is here").into());
        }
        Ok(Self {
            debug: number(&variable, "DEBUG", false)?,
            is_dialer: required("IS_DIALER")?.parse()?,
            redis: required("REDIS_ADDR")?,
            test_key: required("TEST_KEY")?,
            listener_ip: number(&variable, "LISTENER_IP", IpAddr::from([0, 0, 0, 0]))?,
            upload_bytes: number(&variable, "UPLOAD_BYTES", 1 << 30)?,
            download_bytes: number(&variable, "DOWNLOAD_BYTES", 1 << 30)?,
            upload_iterations: number(&variable, "UPLOAD_ITERATIONS", 10)?,
            download_iterations: number(&variable, "DOWNLOAD_ITERATIONS", 10)?,
            latency_iterations: number(&variable, "LATENCY_ITERATIONS", 100)?,
        })
    }

    /// Where the listener leaves its address.
    pub(crate) fn address_key(&self) -> String {
        format!("{}_listener_multiaddr", self.test_key)
    }
}

/// A variable that may be absent or empty.
fn number<T: FromStr>(
    variable: &impl Fn(&str) -> Option<String>,
    name: &str,
    default: T,
) -> Result<T, Failure> {
    match variable(name).filter(|text| !text.is_empty()) {
        None => Ok(default),
        Some(text) => text
            .parse()
            .map_err(|_| format!("{name} cannot be {text}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::Settings;

    fn settings(pairs: &[(&str, &str)]) -> Result<Settings, String> {
        let find = |name: &str| {
            let found = pairs.iter().find(|(key, _)| *key == name)?;
            Some(found.1.to_owned())
        };
        Settings::from_env(find).map_err(|error| error.to_string())
    }

    const LEAST: [(&str, &str); 3] = [
        ("IS_DIALER", "false"),
        ("REDIS_ADDR", "transport-redis:6379"),
        ("TEST_KEY", "a1b2c3d4"),
    ];

    #[test]
    fn takes_the_defaults_of_the_suites() {
        let settings = settings(&LEAST).unwrap();
        assert!(!settings.is_dialer && !settings.debug);
        assert_eq!(settings.address_key(), "a1b2c3d4_listener_multiaddr");
        assert_eq!(settings.listener_ip.to_string(), "0.0.0.0");
        assert_eq!(
            (settings.upload_bytes, settings.latency_iterations),
            (1 << 30, 100)
        );
    }

    #[test]
    fn says_which_variable_is_missing_or_wrong() {
        assert!(settings(&LEAST[..2]).unwrap_err().contains("TEST_KEY"));
        let wrong = [&LEAST[..], &[("UPLOAD_BYTES", "many")]].concat();
        assert!(settings(&wrong).unwrap_err().contains("UPLOAD_BYTES"));
        let other = [&LEAST[..], &[("TRANSPORT", "tcp")]].concat();
        assert!(settings(&other).unwrap_err().contains("webrtc-direct"));
    }
}
