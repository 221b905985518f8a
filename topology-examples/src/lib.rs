//! Example topologies, one folder each, with sample data and tests: see the README of each folder.

pub mod nexmark;
