//! Permits that give back what they took when dropped.
