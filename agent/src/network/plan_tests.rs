//! Plans on a pretended kernel: whatever is broken, a few rounds mend it, and
//! then there is nothing left to do.

use super::lease::{Guard, Layout, Leases, Pool};
use super::nft::TableView;
use super::plan::{
    At, Change, FORWARD_V4, FORWARD_V6, Inside, Link, Names, Observed, POD_LINK, plan,
};
use super::rules::ruleset;
use super::wanted::{Pod, PodId, Protocol, PublishedPort, Wanted};
use proptest::prelude::*;
use std::collections::BTreeMap;

struct Kernel {
    seen: Observed,
    next_index: u32,
}

impl Kernel {
    fn new(wanted: &Wanted) -> Self {
        let lo = || [("lo".to_string(), Link::default())].into();
        let inside = |_: &PodId| Inside {
            links: lo(),
            ..Inside::default()
        };
        let off = "0".to_string();
        let seen = Observed {
            links: lo(),
            pods: wanted
                .pods
                .keys()
                .map(|id| (id.clone(), inside(id)))
                .collect(),
            settings: [(FORWARD_V4.into(), off.clone()), (FORWARD_V6.into(), off)].into(),
            ..Observed::default()
        };
        Self {
            seen,
            next_index: 10,
        }
    }

    fn index(&mut self) -> u32 {
        self.next_index += 1;
        self.next_index
    }

    fn inside(&mut self, id: &PodId) -> &mut Inside {
        self.seen.pods.get_mut(id).expect("a pod that is wanted")
    }

    fn link(&mut self, at: &At, name: &str) -> &mut Link {
        let links = match at {
            At::Device => &mut self.seen.links,
            At::Pod(id) => &mut self.inside(id).links,
        };
        links.get_mut(name).unwrap_or_else(|| panic!("no {name}"))
    }

    fn delete(&mut self, name: &str) {
        let Some(link) = self.seen.links.remove(name) else {
            return;
        };
        self.seen.addresses.retain(|(of, _)| of != name);
        self.seen.routes.retain(|(of, _)| of != name);
        self.seen.neighbours.retain(|(of, _, _)| of != name);
        for port in self.seen.links.values_mut() {
            port.master = port.master.filter(|master| *master != link.index);
        }
        for inside in self.seen.pods.values_mut() {
            let end = inside.links.get(POD_LINK);
            if end.is_some_and(|end| end.peer == Some(link.index)) {
                inside.links.remove(POD_LINK);
                inside.addresses.clear();
                inside.routes.clear();
                inside.neighbours.clear();
            }
        }
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Set(name, value) => {
                self.seen.settings.insert(name, value);
            }
            Change::DeleteLink(name) => self.delete(&name),
            Change::AddBridge { name, mac, alias } => {
                let index = self.index();
                let link = self.seen.links.entry(name).or_insert(Link {
                    index,
                    kind: Some("bridge".into()),
                    ..Link::default()
                });
                link.mac = mac.into();
                link.alias = Some(alias);
            }
            Change::AddCable { pod, name, mac } => {
                let (near, far) = (self.index(), self.index());
                let link = |index, peer| Link {
                    index,
                    kind: Some("veth".into()),
                    peer: Some(peer),
                    mac: mac.into(),
                    ..Link::default()
                };
                let inside = self.inside(&pod);
                assert!(
                    inside
                        .links
                        .insert(POD_LINK.into(), link(far, near))
                        .is_none()
                );
                let before = self.seen.links.insert(name, link(near, far));
                assert!(before.is_none());
            }
            Change::Plug {
                name,
                bridge,
                alias,
                port,
            } => {
                let master = self.link(&At::Device, &bridge).index;
                let link = self.link(&At::Device, &name);
                link.master = Some(master);
                link.alias = Some(alias);
                link.port = port;
            }
            Change::Up(at, name) => self.link(&at, &name).up = true,
            Change::AddAddress(at, name, prefix) => {
                self.link(&at, &name);
                match at {
                    At::Device => self.seen.addresses.insert((name, prefix)),
                    At::Pod(id) => self.inside(&id).addresses.insert((name, prefix)),
                };
            }
            Change::DeleteAddress(at, name, prefix) => {
                match at {
                    At::Device => self.seen.addresses.remove(&(name, prefix)),
                    At::Pod(id) => self.inside(&id).addresses.remove(&(name, prefix)),
                };
            }
            Change::AddRoute(at, name, to, via) => {
                assert!(self.link(&at, &name).up, "a route by {name}, which is off");
                match at {
                    At::Device => self.seen.routes.insert((name, to)),
                    At::Pod(id) => self.inside(&id).routes.insert((name, to, via)),
                };
            }
            Change::AddNeighbour(at, name, address, mac) => {
                self.link(&at, &name);
                match at {
                    At::Device => self.seen.neighbours.insert((name, address, mac)),
                    At::Pod(id) => self.inside(&id).neighbours.insert((name, address, mac)),
                };
            }
            Change::DeleteNeighbour(_, name, address) => {
                let other = |(of, at, _): &(_, _, _)| (of, at) != (&name, &address);
                self.seen.neighbours.retain(other);
            }
            Change::WriteTable(ruleset) => self.seen.table = Some(TableView::of(&ruleset)),
            Change::DeleteTable(_) => self.seen.table = None,
        }
    }

    /// Breaks something, chosen by two numbers.
    fn damage(&mut self, what: u8, which: u8) {
        let pick = |len: usize| usize::from(which) % len.max(1);
        let links: Vec<String> = self.seen.links.keys().cloned().collect();
        let link = links[pick(links.len())].clone();
        let ids: Vec<PodId> = self.seen.pods.keys().cloned().collect();
        let inside = ids.get(pick(ids.len())).cloned();
        match what {
            0 => self.seen.table = None,
            1 => self.seen.table = Some(TableView::default()),
            2 if link != "lo" => self.delete(&link),
            3 => self.link(&At::Device, &link).up = false,
            4 => self.link(&At::Device, &link).master = None,
            5 => self.link(&At::Device, &link).alias = None,
            6 => self.link(&At::Device, &link).mac = vec![1; 6],
            7 => self.seen.addresses.clear(),
            8 => self.seen.routes.clear(),
            9 => self.seen.neighbours.clear(),
            10 => {
                self.seen.settings.insert(FORWARD_V4.into(), "0".into());
            }
            11 => {
                if let Some(id) = inside {
                    self.inside(&id).addresses.clear();
                    self.inside(&id).routes.clear();
                }
            }
            12 => {
                // Somebody made a cable of that name into another pod.
                let index = self.index();
                if link != "lo" {
                    self.link(&At::Device, &link).peer = Some(index);
                }
            }
            _ => (),
        }
    }
}

fn wanted(apps: &[(u8, u8)]) -> Wanted {
    let mut wanted = Wanted::default();
    for (namespace, app) in apps {
        let port = PublishedPort {
            host_ip: None,
            host_port: 1000 + u16::from(*app),
            pod_port: 80,
            protocol: Protocol::Tcp,
        };
        let pod = Pod {
            namespace: format!("n{namespace}").parse().unwrap(),
            app: format!("a{app}").parse().unwrap(),
            netns: "/nowhere".into(),
            ready: true,
            rank: 0,
            ports: vec![port],
            egress: None,
        };
        wanted
            .pods
            .insert(PodId(format!("n{namespace}/a{app}")), pod);
    }
    wanted
}

fn settle(kernel: &mut Kernel, wanted: &Wanted, layout: &Layout, pool: &Pool) {
    let names = Names::of(&pool.tag());
    let (rules, _) = ruleset(
        &names.table,
        &pool.tag(),
        wanted,
        layout,
        Guard { v4: true, v6: true },
        &[],
    );
    for _ in 0..3 {
        let guard = Guard { v4: true, v6: true };
        let changes = plan(&names, wanted, layout, rules.as_ref(), guard, &kernel.seen);
        if changes.is_empty() {
            return;
        }
        changes.into_iter().for_each(|change| kernel.apply(change));
    }
    panic!("it does not come to rest");
}

proptest! {
    #[test]
    fn whatever_breaks_is_mended_and_nothing_stays(
        apps in proptest::collection::vec((0u8..3, 0u8..6), 0..8),
        damages in proptest::collection::vec((0u8..13, any::<u8>()), 0..6),
    ) {
        let pool = Pool::new(Pool::DEFAULT_RANGE, "d").unwrap();
        let all = wanted(&apps);
        let mut kernel = Kernel::new(&all);
        let (layout, errors) = Leases::default().assign(&pool, &all, &[]);
        prop_assert!(errors.is_empty());
        settle(&mut kernel, &all, &layout, &pool);
        let right = comparable(&kernel.seen);
        for (what, which) in damages {
            kernel.damage(what, which);
        }
        settle(&mut kernel, &all, &layout, &pool);
        prop_assert_eq!(comparable(&kernel.seen), right);
        // The pods end, and with them everything.
        kernel.seen.pods.clear();
        settle(&mut kernel, &Wanted::default(), &Layout::default(), &pool);
        let seen = &kernel.seen;
        prop_assert_eq!(seen.links.len(), 1);
        prop_assert!(seen.table.is_none() && seen.addresses.is_empty());
        prop_assert!(seen.is(FORWARD_V4, "0") && seen.is(FORWARD_V6, "0"));
    }
}

/// Without the numbers of interfaces, which may be others, and the state of
/// the loopback, which is not ours.
fn comparable(seen: &Observed) -> Observed {
    let mut seen = seen.clone();
    let strip = |links: &mut BTreeMap<String, Link>| {
        links.retain(|name, _| name != "lo");
        for link in links.values_mut() {
            link.index = 0;
            link.peer = None;
            link.master = link.master.map(|_| 0);
            // Only a bridge's is watched.
            if link.kind.as_deref() == Some("veth") {
                link.mac.clear();
            }
        }
    };
    strip(&mut seen.links);
    seen.pods.values_mut().for_each(|pod| strip(&mut pod.links));
    seen
}
