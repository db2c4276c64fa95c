//! Connections survive: whatever happens to links and masters is a pause to the applications, and what cannot be survived is a reset.
//!
//! Each test disturbs a tunnel while streams run through it whose every byte is checked. `REPORT_TEST_SCALE=full` enlarges the streams. What
//! applications feel of a pause, in milliseconds, is measured by the ignored tests of [`pauses`].

mod cuts;
mod drains;
mod ends;
mod lab;
mod load;
mod masters;
mod outages;
mod pauses;
mod programs;
mod slow;
mod ticks;
