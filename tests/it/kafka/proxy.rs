//! Stands between clients and a broker, and loses a request or its answer.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// The request that ends a transaction.
pub const END_TRANSACTION: i16 = 26;

/// What does not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The request: the broker never hears of it.
    Request,
    /// The answer: the broker has done what was asked.
    Answer,
}

/// A proxy for one broker, on a port of its own.
pub struct Proxy {
    port: u16,
    network: Arc<Network>,
}

#[derive(Default)]
struct Network {
    broker: OnceLock<String>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Which request is lost, and after how many others of its kind.
    fault: Option<(i16, usize, Lost)>,
    /// Nothing arrives any more, in either direction.
    silent: bool,
    connections: Vec<TcpStream>,
}

impl Proxy {
    /// Nobody is answered before the broker [is known](Self::connect).
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let network = Arc::new(Network::default());
        let connected = network.clone();
        spawn(move || {
            for client in listener.incoming().flatten() {
                // A broker that is away is a connection that is closed.
                let _ = connected.connect(client);
            }
        });
        Proxy { port, network }
    }

    /// Where clients connect.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same, as a client wants it.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// From now on connections lead to this broker.
    pub fn connect(&self, broker: &str) {
        self.network.broker.set(broker.to_owned()).unwrap();
    }

    /// After `passing` requests of this kind (Kafka's API key) the next or its answer is lost, and everything after it.
    pub fn lose(&self, api_key: i16, passing: usize, lost: Lost) {
        self.network.state.lock().unwrap().fault = Some((api_key, passing, lost));
    }

    /// Waits until it has happened.
    #[track_caller]
    pub fn await_loss(&self) {
        let start = Instant::now();
        while !self.network.state.lock().unwrap().silent {
            assert!(start.elapsed() < Duration::from_secs(60), "no such request came");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// New connections work; the old ones, which have lost something, end.
    pub fn heal(&self) {
        let mut state = self.network.state.lock().unwrap();
        state.silent = false;
        for connection in state.connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

/// Ends with its connection.
fn spawn(work: impl FnOnce() + Send + 'static) {
    thread::Builder::new().name("proxy".to_owned()).spawn(work).unwrap();
}

impl Network {
    fn connect(self: &Arc<Self>, client: TcpStream) -> io::Result<()> {
        let Some(broker) = self.broker.get() else { return Ok(()) };
        let broker = TcpStream::connect(broker)?;
        client.set_nodelay(true)?;
        broker.set_nodelay(true)?;
        let ends = [client.try_clone()?, broker.try_clone()?];
        self.state.lock().unwrap().connections.extend(ends);
        let (from, to, network) = (client.try_clone()?, broker.try_clone()?, self.clone());
        spawn(move || {
            let _ = network.requests(&from, &to);
            let _ = to.shutdown(Shutdown::Both);
        });
        let network = self.clone();
        spawn(move || {
            let _ = network.answers(&broker, &client);
            let _ = client.shutdown(Shutdown::Both);
        });
        Ok(())
    }

    fn requests(&self, mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
        loop {
            let mut size = [0; 4];
            from.read_exact(&mut size)?;
            let mut request = vec![0; u32::from_be_bytes(size) as usize];
            from.read_exact(&mut request)?;
            if self.passes(i16::from_be_bytes([request[0], request[1]])) {
                to.write_all(&[&size[..], &request].concat())?;
            }
        }
    }

    fn answers(&self, mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
        let mut buffer = [0; 1 << 16];
        loop {
            let count = from.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            if !self.state.lock().unwrap().silent {
                to.write_all(&buffer[..count])?;
            }
        }
    }

    /// Whether a request reaches the broker.
    fn passes(&self, api_key: i16) -> bool {
        let mut state = self.state.lock().unwrap();
        if state.silent {
            return false;
        }
        match &mut state.fault {
            Some((key, 0, lost)) if *key == api_key => {
                let passes = *lost == Lost::Answer;
                (state.silent, state.fault) = (true, None);
                passes
            }
            Some((key, passing, _)) if *key == api_key => {
                *passing -= 1;
                true
            }
            _ => true,
        }
    }
}
