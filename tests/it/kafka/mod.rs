//! On a real broker. The first test that needs one starts it; it ends with this process.

mod application;
mod broker;
mod brokers;
mod client;
mod crashes;
mod disk;
mod endurance;
mod faults;
mod flights;
mod foreign_keys;
mod globals;
mod harness;
pub mod java;
mod proxy;
mod registry;
mod run;
mod schemas;
mod topics;
mod upgrade;
mod verifier;
