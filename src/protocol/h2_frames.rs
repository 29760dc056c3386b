//! h2_frames
