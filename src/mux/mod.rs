//! Streams over an ordered channel, without I/O.
