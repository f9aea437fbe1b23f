//! Jobs and CronJobs of the core on a machine on paper: its clock is set, it
//! sleeps, reboots, and its agent dies.

mod cron;
mod laws;
mod logs;
mod machine;
mod once;
