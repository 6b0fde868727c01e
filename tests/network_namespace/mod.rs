//! Tests in network namespaces of their own, for which they start themselves again with `unshare`. Where that is not allowed
//! they say so and pass; with `CI=true` that is a failure.
#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "no test file uses every helper, a test fails by panicking, and a skipped one says why"
)]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
};

/// Set for the process inside the namespace, to what it is to be there.
const INSIDE: &str = "LIBP2P_RTC_TEST_NAMESPACE";
/// What the process is that the test itself is.
const FIRST: &str = "test";

/// Runs the test of this name again in a network namespace of its own, which has a loopback interface only. True inside;
/// there the test goes on.
pub(crate) fn enter(name: &str) -> bool {
    if role().is_some() {
        ip("link set lo up");
        return true;
    }
    if let Err(reason) = allowed() {
        let in_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
        assert!(!in_ci, "{name} needs a network namespace: {reason}");
        eprintln!("{name} is skipped, it needs a network namespace: {reason}");
        return false;
    }
    let output = again(Command::new("unshare").arg("--net"), name, FIRST)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
    false
}

/// What this process is to be, if it is inside and not the test itself: see [`Other`].
pub(crate) fn other_role() -> Option<String> {
    role().filter(|role| role != FIRST)
}

fn role() -> Option<String> {
    std::env::var(INSIDE).ok()
}

/// This program with this test, by way of another one.
fn again<'a>(command: &'a mut Command, name: &str, role: &str) -> &'a mut Command {
    command
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, role)
}

/// Can namespaces be made, and interfaces in them?
fn allowed() -> Result<(), String> {
    let output = Command::new("unshare")
        .args(["--net", "ip", "link", "add", "probe0", "type", "veth"])
        .output()
        .map_err(|error| format!("unshare: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

pub(crate) fn ip(command: &str) {
    let status = Command::new("ip")
        .args(command.split(' '))
        .status()
        .unwrap();
    assert!(status.success(), "ip {command}");
}

/// One more process of a test, in another namespace than the test itself. It ends with this.
pub(crate) struct Other {
    child: Child,
    orders: ChildStdin,
    lines: BufReader<ChildStdout>,
}

impl Drop for Other {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Other {
    /// The test of this name in one more namespace; what it is to be there says [`other_role`].
    pub(crate) fn in_new_namespace(name: &str, role: &str) -> Self {
        Self::start(again(Command::new("unshare").arg("--net"), name, role))
    }

    /// One more in the namespace of this one.
    pub(crate) fn beside(&self, name: &str, role: &str) -> Self {
        let place = format!("--net=/proc/{}/ns/net", self.child.id());
        Self::start(again(Command::new("nsenter").arg(place), name, role))
    }

    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            orders,
            lines,
        }
    }

    /// Gives it the end of a cable. It must have begun, so that its namespace is there.
    pub(crate) fn take_interface(&self, name: &str) {
        ip(&format!("link set {name} netns {}", self.child.id()));
    }

    /// Lets it go on behind [`wait_for_order`].
    pub(crate) fn order(&mut self) {
        self.orders.write_all(b"\n").unwrap();
    }

    /// The rest of the next line that begins like this.
    pub(crate) fn line(&mut self, begin: &str) -> String {
        loop {
            let mut line = String::new();
            let length = self.lines.read_line(&mut line).unwrap();
            assert!(length > 0, "it ended before it said {begin}");
            // Behind what the harness prints.
            if let Some((_, rest)) = line.trim_end().split_once(begin) {
                return rest.to_owned();
            }
        }
    }
}

/// In an [`Other`]: waits for the test, and from then on ends with it.
pub(crate) fn wait_for_order() {
    std::io::stdin().read_exact(&mut [0]).unwrap();
    thread::spawn(|| {
        std::io::stdin().read_to_end(&mut Vec::new()).ok();
        std::process::exit(0);
    });
}

/// In an [`Other`]: tells the test something.
#[allow(clippy::print_stdout, reason = "that is where it listens")]
pub(crate) fn tell(text: &str) {
    println!("{text}");
}
