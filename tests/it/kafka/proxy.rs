//! Stands between clients and a broker, and loses a request or its answer, or is late with a request.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// The request that brings records.
pub const PRODUCE: i16 = 0;

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

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It or its answer is lost.
    Lost(Lost),
    /// It is held back, and what its connection brings after it.
    Late,
}

/// Where the request that is late is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Late {
    #[default]
    None,
    /// It waits here.
    Held,
    /// It is on its way to the broker.
    Released,
    /// The broker has answered it.
    Answered,
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
    /// To which request it happens, and after how many others of its kind.
    fault: Option<(i16, usize, Fault)>,
    /// Nothing arrives any more, in either direction.
    silent: bool,
    late: Late,
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
        self.fault(api_key, passing, Fault::Lost(lost));
    }

    /// After `passing` requests of this kind the next is held back, and what its connection brings after it, until it is
    /// [released](Self::release). Other connections work.
    pub fn hold(&self, api_key: i16, passing: usize) {
        self.fault(api_key, passing, Fault::Late);
    }

    fn fault(&self, api_key: i16, passing: usize, fault: Fault) {
        self.network.state.lock().unwrap().fault = Some((api_key, passing, fault));
    }

    /// Waits until it has happened.
    #[track_caller]
    pub fn await_loss(&self) {
        self.network.wait_until("the request", |state| state.silent);
    }

    /// Waits until a request is held back.
    #[track_caller]
    pub fn await_held(&self) {
        self.network.wait_until("the request", |state| state.late == Late::Held);
    }

    /// Lets the request through that was held back, and waits until the broker has answered it.
    #[track_caller]
    pub fn release(&self) {
        self.network.state.lock().unwrap().late = Late::Released;
        self.network.wait_until("its answer", |state| state.late == Late::Answered);
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
        let held = Arc::new(AtomicBool::new(false));
        let is_held = held.clone();
        spawn(move || {
            let _ = network.requests(&from, &to, &held);
            // What was sent may still be answered.
            let _ = to.shutdown(Shutdown::Write);
        });
        let network = self.clone();
        spawn(move || {
            let _ = network.answers(&broker, &client, &is_held);
            let _ = client.shutdown(Shutdown::Both);
        });
        Ok(())
    }

    fn requests(&self, mut from: &TcpStream, mut to: &TcpStream, held: &AtomicBool) -> io::Result<()> {
        loop {
            let mut size = [0; 4];
            from.read_exact(&mut size)?;
            let mut request = vec![0; u32::from_be_bytes(size) as usize];
            from.read_exact(&mut request)?;
            let fault = self.fault(i16::from_be_bytes([request[0], request[1]]));
            if fault == Some(Fault::Late) {
                held.store(true, Ordering::Relaxed);
                self.wait_until("the release", |state| state.late == Late::Released);
            }
            if fault != Some(Fault::Lost(Lost::Request)) {
                to.write_all(&[&size[..], &request].concat())?;
            }
        }
    }

    fn answers(&self, mut from: &TcpStream, mut to: &TcpStream, held: &AtomicBool) -> io::Result<()> {
        let mut buffer = [0; 1 << 16];
        loop {
            let count = from.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            let silent = {
                let mut state = self.state.lock().unwrap();
                if held.load(Ordering::Relaxed) && state.late == Late::Released {
                    state.late = Late::Answered;
                }
                state.silent
            };
            if !silent {
                to.write_all(&buffer[..count])?;
            }
        }
    }

    /// What happens to a request.
    fn fault(&self, api_key: i16) -> Option<Fault> {
        let mut state = self.state.lock().unwrap();
        if state.silent {
            return Some(Fault::Lost(Lost::Request));
        }
        match &mut state.fault {
            Some((key, 0, fault)) if *key == api_key => {
                let fault = *fault;
                match fault {
                    Fault::Lost(_) => state.silent = true,
                    Fault::Late => state.late = Late::Held,
                }
                state.fault = None;
                Some(fault)
            }
            Some((key, passing, _)) if *key == api_key => {
                *passing -= 1;
                None
            }
            _ => None,
        }
    }

    #[track_caller]
    fn wait_until(&self, what: &str, is_so: impl Fn(&State) -> bool) {
        let start = Instant::now();
        while !is_so(&self.state.lock().unwrap()) {
            assert!(start.elapsed() < Duration::from_secs(60), "waited for {what}");
            thread::sleep(Duration::from_millis(10));
        }
    }
}
