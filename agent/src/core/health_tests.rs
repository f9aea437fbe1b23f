//! Probes by table: what a kubelet would make of the same answers.
