//! How long a fleet takes: N devices connect at once, then each gets a
//! message of its own and answers it. Hub and broker are in this process, the
//! devices in a child, each with a link of its own.
//!
//! `cargo run --release -p skerry-broker --example fanout [N]`

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use skerry_broker::*;
use skerry_link::{Full, Link, LinkConfig, LinkEvent, Qos};

struct Anyone;

impl Authority for Anyone {
    fn connect(&self, who: &Credentials<'_>) -> Result<Grant, Refusal> {
        let is_hub = who.peer == Peer::Unix;
        let own = if is_hub {
            "#".into()
        } else {
            format!("f/{}/+", who.client_id)
        };
        let filters: Vec<TopicFilter> = vec![own.parse().expect("a filter")];
        Ok(Grant {
            publish: filters.clone(),
            subscribe: filters,
            class: if is_hub {
                Class::hub()
            } else {
                Class::device()
            },
        })
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [role, address, count] = &args[..]
        && role == "devices"
    {
        return devices(address, count.parse().expect("a number"));
    }
    let count: usize = args.first().map_or(1000, |n| n.parse().expect("a number"));
    let executor = Arc::new(smol::Executor::new());
    let dir = std::env::temp_dir().join(format!("skerry-fanout-{}", std::process::id()));
    std::fs::create_dir(&dir).expect("a directory");
    let mut config = BrokerConfig::new(Limits {
        pending: count,
        pending_per_address: count,
        ..Limits::default()
    });
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    config.plain = Some(any);
    config.unix = Some(dir.join("mqtt"));
    let broker = Broker::start(&executor, config, Arc::new(Anyone)).expect("a broker");
    let url = format!("unix://{}", dir.join("mqtt").display());
    smol::block_on(executor.run(async {
        let mut config = LinkConfig::new(url.parse().expect("a URL"), "hub");
        config.subscriptions = vec!["f/+/report".into()];
        config.max_queued_messages = 4096;
        config.max_queued_bytes = 64 * 1024 * 1024;
        let (hub, events) = Link::start(&executor, config, None);
        while !matches!(events.recv().await, Ok(LinkEvent::Up { .. })) {}
        let start = Instant::now();
        let mut child = Command::new(std::env::current_exe().expect("own path"))
            .args([
                "devices",
                &broker.plain_address().expect("it listens").to_string(),
            ])
            .arg(count.to_string())
            .stdin(Stdio::null())
            .spawn()
            .expect("own program");
        while broker.stats().subscriptions < count + 1 {
            smol::Timer::after(Duration::from_millis(10)).await;
        }
        println!(
            "{count} devices connected and subscribed in {:?}",
            start.elapsed()
        );
        let start = Instant::now();
        let mut answers = 0;
        let mut take = |event| answers += usize::from(matches!(event, LinkEvent::Message { .. }));
        for n in 0..count {
            let topic = format!("f/d{n}/desired");
            while hub.publish(&topic, vec![7; 1024], Qos::AtLeastOnce) == Err(Full) {
                take(events.recv().await.expect("the link lives"));
            }
            while let Ok(event) = events.try_recv() {
                take(event);
            }
        }
        println!("all published after {:?}", start.elapsed());
        while answers < count {
            let event = events.recv().await.expect("the link lives");
            answers += usize::from(matches!(event, LinkEvent::Message { .. }));
        }
        println!("all answered after {:?}", start.elapsed());
        child.kill().expect("own child");
        child.wait().expect("own child");
        println!("{:?}", broker.stats());
    }));
    drop(broker);
    let _ = std::fs::remove_dir_all(&dir);
}

/// Links that answer each message.
fn devices(address: &str, count: usize) {
    let executor = smol::Executor::new();
    let tasks: Vec<_> = (0..count)
        .map(|n| {
            let url = format!("mqtt://{address}").parse().expect("a URL");
            let mut config = LinkConfig::new(url, format!("d{n}"));
            config.subscriptions = vec![format!("f/d{n}/desired")];
            let (link, events) = Link::start(&executor, config, None);
            executor.spawn(async move {
                while let Ok(event) = events.recv().await {
                    if let LinkEvent::Message { .. } = event {
                        let topic = format!("f/d{n}/report");
                        let _ = link.publish(&topic, vec![1; 128], Qos::AtLeastOnce);
                    }
                }
            })
        })
        .collect();
    smol::block_on(executor.run(async {
        for task in tasks {
            task.await;
        }
    }));
}
