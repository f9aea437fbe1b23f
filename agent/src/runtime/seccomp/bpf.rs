//! A small assembler: from answers by number to a classic BPF program.

use super::profile::{Abi, Answer, Test};

/// `struct sock_filter` of linux/filter.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    value: u32,
}

// Opcodes: class, size or operation, and mode or source in one.
const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const JUMP_BITS: u16 = 0x45;
const RETURN: u16 = 0x06;

// Offsets in `struct seccomp_data`; the arguments' low words, which come first
// on all of our CPUs. What the kernel looks at in them is 32 bits wide.
const NUMBER: u32 = 0;
const ABI: u32 = 4;
const ARGUMENTS: u32 = 16;

const ALLOW: u32 = 0x7fff_0000;
const ERROR: u32 = 0x0005_0000;

/// Answers of one ABI: each holds from its number on to the next one's. The
/// first is for number 0.
pub type Answers = Vec<(u32, Answer)>;

/// The program that gives these answers, and `ENOSYS` to every other ABI.
pub fn assemble(abis: &[(Abi, Answers)]) -> Vec<Instruction> {
    let mut program = vec![op(LOAD, ABI)];
    for (abi, answers) in abis {
        let mut block = vec![op(LOAD, NUMBER)];
        search(answers, &mut block);
        program.push(branch(JUMP_EQUAL, abi.audit(), 1, 0));
        // Conditional jumps reach 255 instructions, this one all.
        program.push(op(JUMP, block.len() as u32));
        program.extend(block);
    }
    program.push(op(RETURN, ERROR | libc::ENOSYS as u32));
    program
}

/// Halves the range until one answer is left. The number is loaded.
fn search(answers: &[(u32, Answer)], out: &mut Vec<Instruction>) {
    let (low, high) = answers.split_at(answers.len() / 2);
    match (low, high) {
        ([], [(_, answer)]) => give(answer, out),
        (_, [(first, _), ..]) => {
            let mut below = Vec::new();
            search(low, &mut below);
            out.push(branch(JUMP_GREATER_OR_EQUAL, *first, 0, 1));
            out.push(op(JUMP, below.len() as u32));
            out.extend(below);
            search(high, out);
        }
        // No answers at all; the tables have some.
        (_, []) => out.push(op(RETURN, ERROR | libc::EPERM as u32)),
    }
}

fn give(answer: &Answer, out: &mut Vec<Instruction>) {
    let refuse = op(RETURN, ERROR | libc::EPERM as u32);
    let allow = op(RETURN, ALLOW);
    match answer {
        Answer::Allow => out.push(allow),
        Answer::Refuse => out.push(refuse),
        Answer::Unknown => out.push(op(RETURN, ERROR | libc::ENOSYS as u32)),
        Answer::AllowIf { argument, test } => {
            out.push(op(LOAD, ARGUMENTS + 8 * argument));
            let (values, otherwise) = match test {
                Test::NoBits(bits) => {
                    out.push(branch(JUMP_BITS, *bits, 0, 1));
                    out.extend([refuse, allow]);
                    return;
                }
                Test::OneOf(values) => ((values, allow), refuse),
                Test::NoneOf(values) => ((values, refuse), allow),
            };
            for value in *values.0 {
                out.push(branch(JUMP_EQUAL, *value, 0, 1));
                out.push(values.1);
            }
            out.push(otherwise);
        }
    }
}

fn op(code: u16, value: u32) -> Instruction {
    branch(code, value, 0, 0)
}

fn branch(code: u16, value: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction {
        code,
        jump_true,
        jump_false,
        value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::seccomp::profile::answers;

    /// What the kernel would do, for all CPUs on any machine.
    fn run(program: &[Instruction], abi: u32, number: u32, argument: u32) -> u32 {
        let (mut at, mut loaded) = (0, 0);
        loop {
            let now = program[at];
            at += 1;
            let taken = match now.code {
                LOAD => {
                    loaded = match now.value {
                        NUMBER => number,
                        ABI => abi,
                        _ => argument,
                    };
                    continue;
                }
                JUMP => {
                    at += now.value as usize;
                    continue;
                }
                RETURN => return now.value,
                JUMP_EQUAL => loaded == now.value,
                JUMP_GREATER_OR_EQUAL => loaded >= now.value,
                JUMP_BITS => loaded & now.value != 0,
                other => panic!("opcode {other:x}"),
            };
            at += usize::from(if taken { now.jump_true } else { now.jump_false });
        }
    }

    #[test]
    fn every_number_of_every_abi_gets_its_answer() {
        const NONE: u32 = ERROR | libc::ENOSYS as u32;
        for cpu in ["x86_64", "aarch64", "arm", "riscv64", "x86"] {
            let abis = Abi::of_cpu(cpu).expect("known");
            let of = |abi: &Abi| (*abi, answers(*abi, &[]).expect("readable"));
            let tables: Vec<(Abi, Answers)> = abis.iter().map(of).collect();
            let program = assemble(&tables);
            assert!(program.len() < 4096, "{cpu}: {}", program.len());
            for (abi, answers) in &tables {
                let beyond = answers.last().expect("not empty").0 + 10;
                for number in (0..2000).chain(983_030..beyond) {
                    let at = answers.partition_point(|(first, _)| *first <= number);
                    let want = match &answers[at - 1].1 {
                        Answer::Allow => ALLOW,
                        Answer::Refuse => ERROR | libc::EPERM as u32,
                        Answer::Unknown => NONE,
                        // Refuses no argument 0 of personality and socket,
                        // and no flags.
                        Answer::AllowIf { .. } => ALLOW,
                    };
                    assert_eq!(
                        run(&program, abi.audit(), number, 0),
                        want,
                        "{cpu} {number}"
                    );
                }
            }
            assert_eq!(run(&program, 0x8000_0016, 1, 0), NONE, "an s390 program");
        }
    }

    #[test]
    fn known_numbers() {
        // 32-bit Arm on 64-bit Arm: 120 is clone, 281 socket, 435 clone3.
        let abis = Abi::of_cpu("aarch64").expect("known");
        let of = |abi: &Abi| (*abi, answers(*abi, &[]).expect("readable"));
        let program = assemble(&abis.iter().map(of).collect::<Vec<_>>());
        let arm = Abi::Arm.audit();
        let refused = ERROR | libc::EPERM as u32;
        assert_eq!(run(&program, arm, 120, libc::CLONE_NEWUSER as u32), refused);
        assert_eq!(run(&program, arm, 120, libc::CLONE_VM as u32), ALLOW);
        assert_eq!(run(&program, arm, 281, libc::AF_VSOCK as u32), refused);
        assert_eq!(run(&program, arm, 281, libc::AF_INET as u32), ALLOW);
        assert_eq!(run(&program, arm, 0x0f_0005, 0), ALLOW, "set_tls");
        let arm64 = Abi::Arm64.audit();
        assert_eq!(run(&program, arm64, 97, 0), refused, "unshare");
        assert_eq!(run(&program, arm64, 64, 0), ALLOW, "write");
    }
}
