//! Real brokers of `scripts/kafka`: started on free ports of 127.0.0.1, gone with the process that started them.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// How clients speak to a broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Security {
    /// Without any.
    #[default]
    Plaintext,
    /// TLS, with PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER with unsigned tokens.
    SaslSsl,
}

/// What a broker is like.
#[derive(Clone, Debug, Default)]
pub struct BrokerOptions {
    /// How clients speak to it.
    pub security: Security,
    /// Names and passwords of SASL.
    pub users: Vec<(&'static str, &'static str)>,
    /// Whether users may do only what was allowed them (`allow` of the Java client). Wants SASL.
    pub acl: bool,
    /// The port of a proxy that clients are to connect to.
    pub proxy: Option<u16>,
    /// Settings of `server.properties`.
    pub properties: Vec<(&'static str, &'static str)>,
    /// Whether it is measured: it gets more memory, and its JVM compiles well instead of soon.
    pub measured: bool,
}

/// A broker, or a cluster of some, and the process that holds it. It ends when this is dropped or this process ends, however
/// it does.
#[derive(Debug)]
pub struct Broker {
    brokers: String,
    internal: String,
    directory: PathBuf,
    holder: Mutex<Holder>,
}

#[derive(Debug)]
struct Holder {
    child: Child,
    /// Closing it ends the broker.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Broker {
    /// Starts one and waits until it answers, some five seconds.
    pub fn start(options: &BrokerOptions) -> Broker {
        Self::hold(options, &[])
    }

    fn hold(options: &BrokerOptions, more: &[&str]) -> Broker {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka"));
        command.arg("hold").args(more).arg("--security").arg(match options.security {
            Security::Plaintext => "plaintext",
            Security::SaslSsl => "sasl_ssl",
        });
        for (name, password) in &options.users {
            command.arg("--user").arg(format!("{name}:{password}"));
        }
        if let Some(port) = options.proxy {
            command.arg("--proxy").arg(port.to_string());
        }
        // Whoever forgets to make a topic shall hear of it.
        let fixed = [("auto.create.topics.enable", "false")];
        for (name, value) in fixed.iter().chain(&options.properties) {
            command.arg("--property").arg(format!("{name}={value}"));
        }
        if options.acl {
            command.arg("--acl");
        }
        if options.measured {
            command.args(["--heap", "1g"]);
        } else {
            command.env("MILLSTREAM_JAVA_OPTS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC");
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut holder = Holder { child, input, output };
        let line = holder.read();
        let mut parts = line.split_whitespace().map(str::to_owned);
        let mut part = || parts.next().unwrap_or_else(|| panic!("the broker did not start: {line}"));
        Broker { brokers: part(), internal: part(), directory: part().into(), holder: Mutex::new(holder) }
    }

    /// The one for tests that leave it running, as it is. Their topics, groups and applications have [`unique`] names.
    pub fn shared() -> &'static Broker {
        static SHARED: OnceLock<Broker> = OnceLock::new();
        SHARED.get_or_init(|| Broker::start(&BrokerOptions::default()))
    }

    /// Three in one cluster, of which any one may be [told](Self::tell) to end: topics have three replicas, and two are enough.
    /// They are one test's at a time, which finds all of them running.
    pub fn three() -> MutexGuard<'static, Broker> {
        static THREE: OnceLock<Mutex<Broker>> = OnceLock::new();
        let more = ["--brokers", "3", "--heap", "256m"];
        let three = THREE.get_or_init(|| Mutex::new(Broker::hold(&BrokerOptions::default(), &more)));
        let broker = three.lock().unwrap_or_else(PoisonError::into_inner);
        // A test that failed may have left them otherwise.
        broker.resume();
        broker.restart();
        broker
    }

    /// What a client connects to.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// A listener without security, where everyone may do everything.
    pub fn internal(&self) -> &str {
        &self.internal
    }

    /// Where its data (`data`), settings and log are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A file of its certificates: `ca.pem`, `client.crt` or `client.key`.
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.directory.join("tls").join(name)
    }

    /// Ends it like a crash.
    pub fn kill(&self) {
        self.say("kill");
    }

    /// Ends it in order.
    pub fn stop(&self) {
        self.say("stop");
    }

    /// Starts it again on the same ports, with what it had written, and waits until it answers.
    pub fn restart(&self) {
        self.say("start");
    }

    /// It stands still, its connections stay open.
    pub fn pause(&self) {
        self.say("pause");
    }

    /// It goes on.
    pub fn resume(&self) {
        self.say("resume");
    }

    /// Tells one of a cluster, by its number from 1, to `start`, `stop`, `kill`, `pause` or `resume`.
    pub fn tell(&self, number: usize, verb: &str) {
        self.say(&format!("{verb} {number}"));
    }

    fn say(&self, line: &str) {
        let mut holder = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(holder.input.as_mut().unwrap(), "{line}").unwrap();
        assert_eq!(holder.read().trim_end(), "ok", "{line}");
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let holder = self.holder.get_mut().unwrap_or_else(PoisonError::into_inner);
        drop(holder.input.take());
        let _ = holder.child.wait();
    }
}

impl Holder {
    fn read(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line
    }
}

/// A name for one topic, group or application of one test.
pub fn unique(name: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
