//! Tests of the log format, in one binary.
#![allow(
    dead_code,
    reason = "the fake serves test modules that land one by one"
)]

mod fake;
mod support;

mod crash;
mod damage;
mod faults;
mod fuzz;
mod golden;
mod model;
mod samples;
mod writer;
