//! The Skerry hub and its command line.
