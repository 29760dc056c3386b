//! hop_by_hop
