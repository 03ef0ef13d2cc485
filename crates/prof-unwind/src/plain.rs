//! Code of x86-64 without CFI that is simple enough to be read as it stands: what linkers
//! take from `crti.o` and `crtbegin.o` (`_init`, `_fini`, `frame_dummy` and the like, the
//! first code of a library that is run, and so where its pages are met), the PLT as lld
//! writes it, and what glibc leaves out on purpose behind the system call of `clone`.
//!
//! It is read from its start on as long as each instruction is one of those that these
//! functions have; from the first other one on there is no rule.

use crate::rule::Cfa;
use crate::rule::Reg;
use crate::rule::Rule;

/// What an instruction does to the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    Nothing,
    /// Room of so many bytes, or less of it.
    Room(i32),
    PushFp,
    PopFp,
    /// The first instruction of a PLT, where its entries go on: what they pushed is there.
    Plt,
    /// What follows is reached from elsewhere.
    Return,
}

/// Rows from the start of `bytes` on: offset, and the rule from there. And where the last
/// one ends.
pub(crate) fn rows(bytes: &[u8]) -> (Vec<(u32, Rule)>, u32) {
    // What is on the stack but for the return address; where rbp is among it.
    let (mut room, mut fp) = (0_i32, None);
    let mut rows: Vec<(u32, Rule)> = Vec::new();
    let mut rest = bytes;
    loop {
        let at = (bytes.len() - rest.len()) as u32;
        let next = instruction(rest).and_then(|(length, does)| Some((rest.get(length..)?, does)));
        let Some((after, does)) = next else { return (rows, at) };
        if does == Does::Plt {
            room = 8;
        }
        let rule = rule(room, fp);
        if rows.last().is_none_or(|(_, last)| *last != rule) {
            rows.push((at, rule));
        }
        match does {
            Does::Nothing => {}
            Does::Room(more) => room += more,
            Does::Plt => room += 8,
            Does::PushFp => {
                room += 8;
                fp = Some(room);
            }
            Does::PopFp => {
                room -= 8;
                fp = None;
            }
            Does::Return => (room, fp) = (0, None),
        }
        // No function of these.
        if !(0..=64).contains(&room) {
            return (Vec::new(), 0);
        }
        rest = after;
    }
}

fn rule(room: i32, fp: Option<i32>) -> Rule {
    let (fp, fp_off) = fp.map_or((Reg::Same, 0), |at| (Reg::Cfa, -(at + 8) as i16));
    Rule { fp, fp_off, ra: Reg::Cfa, ra_off: -8, cfa_off: room + 8, ..Rule::only(Cfa::Sp) }
}

/// The length of an instruction, and what it does.
fn instruction(bytes: &[u8]) -> Option<(usize, Does)> {
    use Does::Nothing;
    let at = |i: usize| bytes.get(i).copied();
    // Of an address relative to rip.
    let by_ip = |i: usize| at(i).is_some_and(|modrm| modrm & 0xc7 == 0x05);
    let registers = |i: usize| at(i).is_some_and(|modrm| modrm >= 0xc0);
    Some(match (at(0)?, at(1), at(2)) {
        // endbr64
        (0xf3, Some(0x0f), Some(0x1e)) if at(3)? == 0xfa => (4, Nothing),
        // sub, add of rsp
        (0x48, Some(0x83), Some(0xec)) => (4, Does::Room(i32::from(at(3)? as i8))),
        (0x48, Some(0x83), Some(0xc4)) => (4, Does::Room(-i32::from(at(3)? as i8))),
        // lea, mov of what is relative to rip; cmpq
        (0x48, Some(0x8d | 0x8b), _) if by_ip(2) => (7, Nothing),
        (0x48, Some(0x83), Some(0x3d)) => (8, Nothing),
        (0x80, Some(0x3d), _) | (0xc6, Some(0x05), _) => (7, Nothing),
        // add, sub, cmp, test, mov between registers, not to rsp
        (0x48, Some(0x01 | 0x29 | 0x39 | 0x85 | 0x89), Some(modrm))
            if registers(2) && modrm & 7 != 4 =>
        {
            (3, Nothing)
        }
        // sar, shr
        (0x48, Some(0xc1), Some(modrm)) if registers(2) && modrm & 7 != 4 => (4, Nothing),
        (0x48, Some(0xd1), Some(modrm)) if registers(2) && modrm & 7 != 4 => (3, Nothing),
        // cmp, sub of rax with a number; mov of a number to eax, edi, esi
        (0x48, Some(0x3d | 0x2d), _) => (6, Nothing),
        (0xb8 | 0xbe | 0xbf, ..) => (5, Nothing),
        (0x55, ..) => (1, Does::PushFp),
        (0x5d, ..) => (1, Does::PopFp),
        (0xc3, ..) => (1, Does::Return),
        (0x70..=0x7f, ..) => (2, Nothing),
        (0xeb, ..) => (2, Does::Return),
        (0xe9, ..) => (5, Does::Return),
        (0xe8, ..) => (5, Nothing),
        // call of rax, jump to rax, call and jump through a place relative to rip
        (0xff, Some(0xd0), _) => (2, Nothing),
        (0xff, Some(0xe0), _) => (2, Does::Return),
        (0xff, Some(0x15), _) => (6, Nothing),
        (0xff, Some(0x25), _) => (6, Does::Return),
        // push of a number; of what is relative to rip
        (0x68, ..) => (5, Does::Room(8)),
        (0xff, Some(0x35), _) => (6, Does::Plt),
        // syscall
        (0x0f, Some(0x05), _) => (2, Nothing),
        // Padding.
        (0x90 | 0xcc, ..) => (1, Nothing),
        (0x66 | 0x2e, ..) => {
            let prefixes = bytes.iter().take(12).take_while(|b| matches!(b, 0x66 | 0x2e)).count();
            let length = nop(bytes.get(prefixes..)?)?;
            (prefixes + length, Nothing)
        }
        (0x0f, Some(0x1f), _) => (nop(bytes)?, Nothing),
        _ => return None,
    })
}

/// The length of a nop.
fn nop(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [0x90, ..] => Some(1),
        [0x0f, 0x1f, 0x00, ..] => Some(3),
        [0x0f, 0x1f, 0x40, ..] => Some(4),
        [0x0f, 0x1f, 0x44, ..] => Some(5),
        [0x0f, 0x1f, 0x80, ..] => Some(7),
        [0x0f, 0x1f, 0x84, ..] => Some(8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms(bytes: &[u8]) -> (Vec<(u32, i32, i16)>, u32) {
        let (rows, end) = rows(bytes);
        (rows.iter().map(|(at, r)| (*at, r.cfa_off, r.fp_off)).collect(), end)
    }

    #[test]
    fn what_crti_has() {
        let init = [
            0x48, 0x83, 0xec, 0x08, 0x48, 0x8b, 0x05, 0x85, 0x3f, 0x02, 0x00, 0x48, 0x85, 0xc0,
            0x74, 0x02, 0xff, 0xd0, 0x48, 0x83, 0xc4, 0x08, 0xc3,
        ];
        assert_eq!(rooms(&init), (vec![(0, 8, 0), (4, 16, 0), (22, 8, 0)], 23));
    }

    #[test]
    fn what_crtbegin_has() {
        // __do_global_dtors_aux of Debian's gcc.
        let aux = [
            0xf3, 0x0f, 0x1e, 0xfa, 0x80, 0x3d, 1, 2, 3, 0, 0, 0x75, 0x2b, 0x55, 0x48, 0x83, 0x3d,
            1, 2, 3, 0, 0, 0x48, 0x89, 0xe5, 0x74, 0x0c, 0x48, 0x8b, 0x3d, 1, 2, 3, 0, 0xe8, 1, 2,
            3, 4, 0xe8, 5, 6, 7, 8, 0xc6, 0x05, 1, 2, 3, 0, 1, 0x5d, 0xc3, 0x0f, 0x1f, 0, 0xc3,
        ];
        assert_eq!(rooms(&aux), (vec![(0, 8, 0), (14, 16, -16), (52, 8, 0)], 57));
    }

    #[test]
    fn what_lld_writes_as_plt() {
        let plt = [
            0xff, 0x35, 1, 2, 3, 0, 0xff, 0x25, 1, 2, 3, 0, 0x0f, 0x1f, 0x40, 0, // first
            0xff, 0x25, 1, 2, 3, 0, 0x68, 0, 0, 0, 0, 0xe9, 1, 2, 3, 0xff,
        ];
        let rows = vec![(0, 16, 0), (6, 24, 0), (12, 8, 0), (27, 16, 0)];
        assert_eq!(rooms(&plt), (rows, 32));
    }

    #[test]
    fn it_ends_at_what_is_not_known() {
        assert_eq!(rooms(&[0x90, 0x0f, 0x0b, 0xc3]), (vec![(0, 8, 0)], 1));
        // Cut off within an instruction.
        assert_eq!(rooms(&[0x90, 0xe8, 1, 2]), (vec![(0, 8, 0)], 1));
        // A stack that goes up is no function's.
        assert_eq!(rooms(&[0x5d, 0xc3]), (vec![], 0));
        assert_eq!(rooms(&[0x48, 0x83, 0xec, 0x7f, 0xc3]), (vec![], 0));
        assert_eq!(rooms(&[]), (vec![], 0));
    }
}
