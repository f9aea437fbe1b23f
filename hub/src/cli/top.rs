//! `top`: what devices and apps use now. Cpu use is the difference of two
//! looks, by the device's own clock.

use super::args::{Resource, TopArgs};
use super::client::Client;
use super::each::each;
use super::error::CliError;
use super::get::{device_path, devices, resource_and_names};
use super::human;
use super::output::{Out, Style};
use super::table::{Cell, Table};
use crate::api::types::{Device, DeviceState, List, Usage};
use std::collections::BTreeMap;
use std::time::Duration;

/// Between the two looks.
const INTERVAL: Duration = Duration::from_secs(1);

type Usages = BTreeMap<String, Result<Vec<Usage>, String>>;

/// Shows a table of devices or of containers.
pub(super) fn top(out: &mut Out, client: Client, args: &TopArgs) -> Result<(), CliError> {
    let (resource, names) = resource_and_names(&args.resource, &[])?;
    let by_device = match resource {
        Resource::Devices => true,
        Resource::Apps | Resource::Jobs | Resource::CronJobs | Resource::Containers => false,
        Resource::Images
        | Resource::Events
        | Resource::Tokens
        | Resource::Configs
        | Resource::Secrets
        | Resource::Releases
        | Resource::Rollouts => {
            return Err(CliError::Usage("top knows devices and apps".into()));
        }
    };
    let mut devices = devices(&client, args.selector.as_deref())?;
    devices.retain(|d| d.state == DeviceState::Online);
    if by_device && !names.is_empty() {
        devices.retain(|d| names.contains(&d.name));
    }
    if devices.is_empty() {
        out.note("no such device is online");
        return Ok(());
    }
    out.progress("measuring...");
    let first = ask(&client, &devices);
    #[allow(clippy::disallowed_methods)] // A rate needs time to pass.
    std::thread::sleep(INTERVAL);
    let second = ask(&client, &devices);
    let table = match by_device {
        true => device_table(&devices, &first, &second),
        false => app_table(&first, &second, &names, args.output.is_some()),
    };
    let text = table.render(out.colour, true);
    out.print(&text)?;
    for (device, problem) in second
        .iter()
        .filter_map(|(d, u)| Some((d, u.as_ref().err()?)))
    {
        out.error(&format!("{device}: {problem}"));
    }
    Ok(())
}

fn ask(client: &Client, devices: &[Device]) -> Usages {
    let names: Vec<String> = devices.iter().map(|d| d.name.clone()).collect();
    each(&names, |device| {
        let usage = client.get::<List<Usage>>(&format!("{}/usage", device_path(device)));
        usage.map(|l| l.items).map_err(|e| e.to_string())
    })
}

/// Thousandths of a cpu between two looks; nothing when the container started
/// anew between them.
fn cpu_millis(first: Option<&[Usage]>, now: &Usage) -> Option<u64> {
    let same = |u: &&Usage| {
        (&u.namespace, &u.app, &u.container) == (&now.namespace, &now.app, &now.container)
    };
    let before = first?.iter().find(same)?;
    let usec = now.cpu_usec.checked_sub(before.cpu_usec)?;
    let ms = now.at_ms.checked_sub(before.at_ms).filter(|ms| *ms > 0)?;
    Some(usec / ms)
}

fn cpu_text(millis: Option<u64>) -> String {
    millis.map_or_else(String::new, |m| format!("{m}m"))
}

fn ok<'u>(usages: &'u Usages, device: &str) -> Option<&'u [Usage]> {
    usages.get(device)?.as_ref().ok().map(Vec::as_slice)
}

fn device_table(devices: &[Device], first: &Usages, second: &Usages) -> Table {
    let mut table = Table::new(&[
        "DEVICE",
        "CONTAINERS",
        "CPU",
        "CPU%",
        "MEMORY",
        "MEMORY%",
        "PIDS",
    ]);
    for device in devices {
        let Some(now) = ok(second, &device.name) else {
            table.row(vec![
                device.name.as_str().into(),
                Cell::new("no answer", Style::Bad),
            ]);
            continue;
        };
        let before = ok(first, &device.name);
        let millis: u64 = now.iter().filter_map(|u| cpu_millis(before, u)).sum();
        let memory: u64 = now.iter().map(|u| u.memory_bytes).sum();
        let pids: u64 = now.iter().map(|u| u.pids).sum();
        let percent = |part: u64, whole: u64| match whole {
            0 => String::new(),
            whole => format!("{}%", u128::from(part) * 100 / u128::from(whole)),
        };
        table.row(vec![
            device.name.as_str().into(),
            now.len().to_string().into(),
            cpu_text(Some(millis)).into(),
            percent(millis, u64::from(device.facts.cpus) * 1000).into(),
            human::bytes(memory).into(),
            percent(memory, device.facts.memory_bytes).into(),
            pids.to_string().into(),
        ]);
    }
    table
}

/// A share of a limit; nothing without one.
fn of_limit(part: Option<u64>, limit: Option<u64>) -> String {
    match (part, limit) {
        (Some(part), Some(limit)) if limit > 0 => {
            format!("{}%", u128::from(part) * 100 / u128::from(limit))
        }
        _ => "-".into(),
    }
}

/// `1.25%`; cgroup v1 does not tell.
fn waits(pressure: Option<u32>) -> String {
    pressure.map_or_else(
        || "-".into(),
        |share| format!("{}.{:02}%", share / 100, share % 100),
    )
}

fn app_table(first: &Usages, second: &Usages, names: &[String], wide: bool) -> Table {
    let mut head = vec![
        "NAMESPACE",
        "APP",
        "CONTAINER",
        "DEVICE",
        "CPU",
        "CPU%LIMIT",
        "MEMORY",
        "MEMORY%LIMIT",
        "PIDS",
    ];
    if wide {
        head.extend(["WAITS CPU", "WAITS MEMORY", "WAITS DISK"]);
    }
    let mut table = Table::new(&head);
    let mut rows: Vec<(&String, &Usage)> = second
        .iter()
        .filter_map(|(device, usage)| Some((device, usage.as_ref().ok()?)))
        .flat_map(|(device, usage)| usage.iter().map(move |u| (device, u)))
        .filter(|(_, u)| names.is_empty() || names.contains(&u.app))
        .collect();
    rows.sort_by_key(|(device, u)| (&u.namespace, &u.app, &u.container, *device));
    for (device, usage) in rows {
        let millis = cpu_millis(ok(first, device), usage);
        let mut row: Vec<Cell> = vec![
            usage.namespace.as_str().into(),
            usage.app.as_str().into(),
            usage.container.as_str().into(),
            device.as_str().into(),
            cpu_text(millis).into(),
            of_limit(millis, usage.cpu_limit_millis.map(u64::from)).into(),
            human::bytes(usage.memory_bytes).into(),
            of_limit(Some(usage.memory_bytes), usage.memory_limit_bytes).into(),
            usage.pids.to_string().into(),
        ];
        if wide {
            let pressure = usage.pressure;
            row.push(waits(pressure.map(|p| p.cpu)).into());
            row.push(waits(pressure.map(|p| p.memory)).into());
            row.push(waits(pressure.map(|p| p.io)).into());
        }
        table.row(row);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(cpu_usec: u64, at_ms: u64) -> Usage {
        Usage {
            namespace: "default".into(),
            app: "web".into(),
            container: "web".into(),
            cpu_usec,
            memory_bytes: 10 << 20,
            pids: 3,
            cpu_limit_millis: Some(500),
            memory_limit_bytes: None,
            pressure: None,
            at_ms,
        }
    }

    #[test]
    fn cpu_use_is_the_difference_of_two_looks() {
        let before = [usage(1_000_000, 1000)];
        assert_eq!(
            cpu_millis(Some(&before), &usage(1_500_000, 2000)),
            Some(500)
        );
        assert_eq!(cpu_millis(Some(&before), &usage(500, 2000)), None);
        assert_eq!(cpu_millis(Some(&before), &usage(1_500_000, 1000)), None);
        assert_eq!(cpu_millis(None, &usage(1, 1)), None);
        let usages = |u: Usage| Usages::from([("kiosk-7".to_string(), Ok(vec![u]))]);
        let table = app_table(
            &usages(usage(0, 1000)),
            &usages(usage(250_000, 2000)),
            &[],
            true,
        );
        assert_eq!(
            table.render(false, true),
            "NAMESPACE   APP   CONTAINER   DEVICE    CPU    CPU%LIMIT   MEMORY   MEMORY%LIMIT   PIDS   WAITS CPU   WAITS MEMORY   WAITS DISK\n\
             default     web   web         kiosk-7   250m   50%         10Mi     -              3      -           -              -\n"
        );
    }
}
