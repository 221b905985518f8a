//! Millstream as a library: for programs with operators and functions of their own, and to read, run and test topologies in Rust.
//!
//! A program adds to a [`Registry`] what Millstream lacks, and gives it to [`cli::main`]: it then has the whole command line, `check`,
//! `test` and `run` among it, for topologies that use what was added. An operator is an
//! [`OperatorSpec`](operators::operator::OperatorSpec); the easy way to make one is a [`Processor`](operators::processor::Processor),
//! which sees one row at a time, has a state for each key, and timers. Functions are those of [DataFusion](datafusion_expr).
//! `topology-examples/own-operator` is such a program; [`testing`] is for its tests.
//!
//! ```
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use millstream::engine::driver::cases::run_test;
//! use millstream::engine::plan::Plan;
//! use millstream::engine::topology::read;
//!
//! let text = r#"
//!     [app]
//!     id = "shop"
//!
//!     [sources.orders]
//!     topic = "orders"
//!     key   = { order = "string" }
//!     value = { amount = "float64" }
//!
//!     [steps.large]
//!     op    = "filter"
//!     from  = "orders"
//!     where = "amount > 100"
//!
//!     [sinks.large_orders]
//!     from = "large"
//!
//!     [[tests]]
//!     name   = "only large orders pass"
//!     input  = [{ to = "orders", key = { order = "o1" }, value = { amount = 5.0 } },
//!               { to = "orders", key = { order = "o2" }, value = { amount = 500.0 } }]
//!     expect = [{ from = "large_orders", key = { order = "o2" } }]
//! "#;
//! let (topology, findings) = read(text, Path::new("."), &|name| std::env::var(name).ok());
//! let topology = Arc::new(topology.ok_or(format!("{findings:?}"))?);
//! let plan = Arc::new(Plan::new(&topology)?);
//! for test in &topology.tests {
//!     run_test(&topology, &plan, test, false)??;
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub use millstream_engine as engine;
pub use millstream_operators as operators;
pub use millstream_operators::{arrow, datafusion_common, datafusion_expr};
pub use millstream_state as state;
pub use operators::registry::{Registry, RegistryError};

pub mod cli;
pub mod testing;
