//! An application of either engine as a process.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cpu::cpu_seconds;

/// Of the state stores of Kafka Streams, in bytes: the size with which it is fastest here.
const KAFKA_STREAMS_CACHE: &str = "67108864";
/// A process that takes longer is stuck.
const PATIENCE: Duration = Duration::from_secs(900);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Millstream,
    KafkaStreams,
}

pub const ENGINES: [Engine; 2] = [Engine::Millstream, Engine::KafkaStreams];

pub struct Application {
    pub engine: Engine,
    /// What `benches/topologies` and `Streams.java` call it.
    pub program: &'static str,
    pub guarantee: &'static str,
    pub brokers: String,
    /// Of its files.
    pub directory: PathBuf,
    pub id: String,
    pub input: String,
    pub output: String,
    /// The binary.
    pub millstream: PathBuf,
}

/// How long it runs.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// So many records are committed.
    Committed(u64),
    /// Its stores are restored.
    Restored,
    /// It is told to end.
    Told,
}

/// A running application.
pub struct Process {
    child: Child,
    started: Instant,
    engine: Engine,
    /// Where Millstream says whether it is ready.
    listen: String,
    log: PathBuf,
}

impl Application {
    /// Where it keeps local state.
    pub fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// Starts it. Millstream runs until it is told to end, Kafka Streams also ends after the last record.
    pub fn start(&self, until: Until, flags: &[&str]) -> Process {
        std::fs::create_dir_all(self.state()).unwrap();
        let log = self.directory.join("log");
        let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let mut command = match self.engine {
            Engine::Millstream => {
                let mut command = Command::new(&self.millstream);
                command.arg("run").arg(self.topology());
                command.args(["--threads", "1", "--instance", "bench", "--listen", &listen]);
                command.env("INPUT", &self.input).env("OUTPUT", &self.output);
                command.env("MODELS", benches().join("models"));
                command
            }
            Engine::KafkaStreams => {
                let mut command = tool("Streams", "3g");
                command.args(["--workload", self.program, "--guarantee", self.guarantee, "--id", &self.id]);
                command.args([
                    "--input",
                    &self.input,
                    "--output",
                    &self.output,
                    "--cache",
                    KAFKA_STREAMS_CACHE,
                ]);
                command.arg("--model").arg(benches().join("models/trees/1/model.onnx"));
                match until {
                    Until::Committed(records) => command.args(["--records", &records.to_string()]),
                    Until::Restored => command.arg("--restore"),
                    Until::Told => &mut command,
                };
                command
            }
        };
        command.args(flags).arg("--brokers").arg(&self.brokers).arg("--state-dir").arg(self.state());
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Process { child, started: Instant::now(), engine: self.engine, listen, log }
    }

    /// Writes its topology: that of the workload with its id and guarantee.
    fn topology(&self) -> PathBuf {
        let text =
            std::fs::read_to_string(benches().join(format!("topologies/{}.toml", self.program))).unwrap();
        let lines = text.lines().map(|line| match line.split_whitespace().next() {
            Some("id") => format!("id = \"{}\"\n", self.id),
            Some("guarantee") => format!("guarantee = \"{}\"\n", self.guarantee),
            _ => format!("{line}\n"),
        });
        let path = self.directory.join("topology.toml");
        std::fs::write(&path, lines.collect::<String>()).unwrap();
        path
    }
}

impl Process {
    /// Since it was started.
    pub fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// CPU time that all of its threads have used.
    #[track_caller]
    pub fn cpu_seconds(&self) -> f64 {
        assert!(self.started.elapsed() < PATIENCE, "it takes too long\n{}", self.log());
        cpu_seconds(self.child.id()).unwrap_or_else(|| panic!("it has ended\n{}", self.log()))
    }

    /// Waits until its tasks are restored and records are processed.
    pub fn await_ready(&mut self) {
        match self.engine {
            Engine::Millstream => {
                while !self.is_ready() {
                    self.cpu_seconds();
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            Engine::KafkaStreams => {
                let mut line = String::new();
                BufReader::new(self.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
                assert!(!line.is_empty(), "it has ended\n{}", self.log());
            }
        }
    }

    fn is_ready(&self) -> bool {
        let ask = || {
            let mut stream = TcpStream::connect(&self.listen)?;
            stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map(|_| answer)
        };
        ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    /// Ends it in order, so that it leaves its group.
    pub fn end(mut self) {
        drop(self.child.stdin.take());
        if self.engine == Engine::Millstream {
            let signalled =
                Command::new("sh").arg("-c").arg(format!("kill -TERM {}", self.child.id())).status();
            assert!(signalled.unwrap().success());
        }
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}\n{}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A Java program of `benches/kafka-streams`.
pub fn tool(class: &str, heap: &str) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka"));
    command.args(["java", class]);
    command.env("MILLSTREAM_JAVA_OPTS", format!("-Xmx{heap} -Dorg.slf4j.simpleLogger.defaultLogLevel=warn"));
    command
}

fn benches() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches")
}
