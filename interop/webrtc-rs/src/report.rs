//! Lines of JSON, one for each result.

use std::time::Instant;

use serde_json::{Value, json};

use crate::Failure;

/// Tells results; remembers whether all were good.
#[derive(Debug, Default)]
pub(crate) struct Report {
    failed: bool,
}

impl Report {
    /// Tells of a step by its outcome, and of how long it took. A step that failed is an error, for what follows would
    /// fail too.
    pub(crate) fn step(
        &mut self,
        name: &str,
        since: Instant,
        outcome: Result<Value, Failure>,
    ) -> Result<(), Failure> {
        let ms = since.elapsed().as_millis();
        match outcome {
            Ok(detail) => {
                print(&json!({ "result": name, "ok": true, "ms": ms, "detail": detail }));
                Ok(())
            }
            Err(error) => {
                self.failed = true;
                let detail = error.to_string();
                print(&json!({ "result": name, "ok": false, "ms": ms, "detail": detail }));
                Err(error)
            }
        }
    }
}

/// Prints one line at once, even into a pipe.
pub(crate) fn print(value: &Value) {
    use std::io::Write as _;
    let mut output = std::io::stdout().lock();
    // Nobody can be told when the output is gone.
    drop(writeln!(output, "{value}"));
    drop(output.flush());
}
