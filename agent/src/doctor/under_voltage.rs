//! Does the board get enough power? A Raspberry Pi says so itself.

use super::{Finding, Verdict};
use crate::facts::{Host, is_raspberry_pi, throttled, weak_supply_milliamps};

const KIND: &str = "UnderVoltage";
const REMEDY: &str = "use the board's own power supply and a short, thick cable; power USB disks from a hub of their own";

/// Asks the firmware.
pub fn find(host: &Host) -> Finding {
    let poor = |text: &str| Finding::new(KIND, Verdict::Poor, text, REMEDY);
    match throttled(host) {
        Some(bits) if bits & 1 != 0 => {
            poor("under-voltage now: the board may crash, and its card lose data")
        }
        Some(bits) if bits & (1 << 16) != 0 => {
            poor("the voltage was too low at times since the machine started")
        }
        Some(_) => match weak_supply_milliamps(host) {
            None => Finding::good(KIND, "the board gets enough power"),
            Some(most) => Finding::good(
                KIND,
                format!(
                    "the board gets enough power; as its supply promises {most} mA and not 5000, USB devices get 600 mA in all"
                ),
            ),
        },
        None if is_raspberry_pi(host) => Finding::unknown(
            KIND,
            "this kernel does not say whether the board gets enough power",
        ),
        None => Finding::unknown(KIND, "this machine does not tell its supply's voltage"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::tests::Tree;

    #[test]
    fn a_supply_that_holds_usb_down_is_named() {
        let on = |milliamps: u32, forced: u32| {
            let tree = Tree::new(&[("sys/class/hwmon/hwmon0/name", b"rpi_volt\n")]);
            tree.put("sys/class/hwmon/hwmon0/in0_lcrit_alarm", b"0\n");
            let power = "proc/device-tree/chosen/power";
            tree.put(&format!("{power}/max_current"), &milliamps.to_be_bytes());
            let forced = forced.to_be_bytes();
            tree.put(&format!("{power}/usb_max_current_enable"), &forced);
            find(&tree.host())
        };
        let weak = on(3_000, 0);
        assert_eq!(weak.verdict, Verdict::Good);
        assert!(weak.text.contains("promises 3000 mA"), "{}", weak.text);
        for (milliamps, forced) in [(5_000, 0), (3_000, 1), (0, 0)] {
            assert_eq!(on(milliamps, forced).text, "the board gets enough power");
        }
    }
}
