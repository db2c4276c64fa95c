//! What a link at rest costs.
