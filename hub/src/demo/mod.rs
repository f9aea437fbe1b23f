//! `skerry demo`: a hub and two devices on this machine, and what they do in a
//! bad week. Everything is done by the commands that an operator would type,
//! and each is shown before it runs.

pub mod image;
pub mod world;

use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use world::{Device, World};

/// What the demo needs to know.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// The agent's binary.
    pub agent: PathBuf,
    /// The static program that goes into the image.
    pub app: PathBuf,
    /// End by itself instead of waiting for Ctrl-C.
    pub once: bool,
}

/// How long any one thing may take before the demo gives up: far more than it
/// needs on a slow board.
const PATIENCE: Duration = Duration::from_secs(180);
/// Where the app listens, in each device's own network namespace.
const APP_PORT: u16 = 8080;
const IMAGE: &str = "demo/hello:1";

/// Runs the demo. An error means that something it promises did not happen;
/// whatever it made on the machine is removed either way.
pub fn run(options: &DemoOptions) -> Result<()> {
    let missing = world::what_is_missing(options);
    if !missing.is_empty() {
        bail!("the demo cannot run here:\n  - {}", missing.join("\n  - "));
    }
    let mut world = World::create(options)?;
    let mut story = Story::default();
    let result = tell(&mut world, &mut story, options);
    story.print();
    if let Err(e) = &result {
        eprintln!("\nthe demo failed: {e:#}");
        world.print_logs();
    }
    let cleaned = world.remove();
    result?;
    cleaned.context("cannot remove all that the demo made")
}

fn tell(world: &mut World, story: &mut Story, options: &DemoOptions) -> Result<()> {
    say("A hub with its own broker, and two devices with nothing but an address and a token.");
    world.start_hub()?;
    story.done("hub started");

    for (name, site) in [("pi-berlin", "berlin"), ("pi-rome", "rome")] {
        let label = format!("site={site}");
        let token = world.skerry(&[
            "token",
            "create",
            "--label",
            &label,
            "--uses",
            "1",
            "--expires",
            "1h",
        ])?;
        world.add_device(name, token.trim())?;
    }
    world.wait_for_devices_online(PATIENCE)?;
    world.show(&["get", "devices"])?;
    story.done("two devices joined");

    say("An image made here, imported into the hub; an app for every device that has a site.");
    let archive = world.write_image(&options.app, IMAGE)?;
    world.show(&["image", "import", &archive])?;
    let manifest = world.write_manifest("hello")?;
    world.show(&["apply", "-f", &manifest, "--wait", "--timeout", "3m"])?;
    for device in world.devices() {
        expect_answer(device, "hello")?;
    }
    story.done("app rolled out, answers on both devices");

    say("A new version of it.");
    let manifest = world.write_manifest("hello again")?;
    world.show(&["diff", "-f", &manifest])?;
    world.show(&["apply", "-f", &manifest, "--wait", "--timeout", "3m"])?;
    for device in world.devices() {
        expect_answer(device, "hello again")?;
    }
    story.done("new revision rolled out");

    world.show(&["logs", "pi-rome/web", "--tail", "3"])?;
    let inside = world.skerry(&["exec", "pi-berlin/web", "--", "/bin/app", "env"])?;
    if !inside.contains("TEXT=hello again") {
        bail!("exec did not run in the container: {inside}");
    }
    story.done("logs and exec through the hub");

    say("The hub dies. A device loses power and comes back, with nobody to ask.");
    world.kill_hub()?;
    let cut = Instant::now();
    world.cut_power("pi-rome")?;
    if get(world.device("pi-rome")?).is_ok() {
        bail!("the device still answers without power");
    }
    world.boot("pi-rome")?;
    expect_answer(world.device("pi-rome")?, "hello again")?;
    println!(
        "  pi-rome answers again after {} ms",
        cut.elapsed().as_millis()
    );
    expect_answer(world.device("pi-berlin")?, "hello again")?;
    story.done("app back after a power cut, without a hub");

    say("The hub returns, and everybody finds it.");
    world.start_hub()?;
    world.wait_for_devices_online(PATIENCE)?;
    world.show(&["get", "devices"])?;
    world.show(&["get", "apps"])?;
    story.done("devices back with the hub");

    if !options.once {
        world.print_hints();
        world::wait_for_ctrl_c()?;
    }
    Ok(())
}

/// The HTTP answer of the app on this device.
fn get(device: &Device) -> Result<String> {
    world::http_get(device.address(), APP_PORT)
}

fn expect_answer(device: &Device, text: &str) -> Result<()> {
    let answer = world::until(PATIENCE, || {
        get(device)
            .ok()
            .filter(|a| a.starts_with(&format!("{text} from ")))
    })
    .with_context(|| format!("{} does not answer '{text}' over HTTP", device.name()))?;
    println!(
        "  http://{}:{APP_PORT} says: {}",
        device.address(),
        answer.trim()
    );
    Ok(())
}

fn say(text: &str) {
    println!("\n{text}");
}

/// What has happened so far, and when.
#[derive(Default)]
struct Story {
    done: Vec<(&'static str, Duration)>,
    started: Option<Instant>,
}

impl Story {
    fn done(&mut self, what: &'static str) {
        let started = *self.started.get_or_insert_with(Instant::now);
        self.done.push((what, started.elapsed()));
    }

    fn print(&self) {
        println!("\n{:<45} {:>8}", "WHAT HAPPENED", "AFTER");
        for (what, after) in &self.done {
            println!("{what:<45} {:>6.1} s", after.as_secs_f64());
        }
    }
}
