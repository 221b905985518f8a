//! Millstream as a library: what a Rust program needs to read a topology, run it in memory and test it.
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
pub use millstream_state as state;
