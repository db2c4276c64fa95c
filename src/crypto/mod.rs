//! Keys, proofs, the tunnel handshake, sealing.
