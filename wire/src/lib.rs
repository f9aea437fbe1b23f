//! What hub and device say to each other: ids, topics, messages, the sealed line.
