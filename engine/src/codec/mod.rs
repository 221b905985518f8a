//! Record bytes to Arrow columns and back.

pub mod layout;
