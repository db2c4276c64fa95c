//! The server role: registers ports and dials the local services.
