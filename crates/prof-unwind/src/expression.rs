//! DWARF expressions, as far as rules can hold what they say.
//!
//! Nearly all in real files are a register plus a constant, or what is stored there.
//! So an expression is worked out with sums of that form instead of numbers; what has
//! none is refused.

use gimli::EndianSlice;
use gimli::Expression;
use gimli::LittleEndian;
use gimli::Operation;
use gimli::Register;

pub(crate) type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// What a value starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Base {
    Nothing,
    Sp,
    Fp,
    Cfa,
    /// What is stored at the stack pointer plus this.
    AtSp(i64),
    /// What is stored at the frame pointer plus this.
    AtFp(i64),
}

/// A value: its base, and what is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) base: Base,
    pub(crate) add: i64,
}

/// Enough for sums; compilers need two.
const MAX_DEPTH: usize = 8;

/// What ld says of its lazy PLT, `*` being the byte that says how many bytes of an
/// entry's 16 come before its push:
/// `breg7(8) breg16(0) lit15 and lit* ge lit3 shl plus`.
const PLT: [u8; 11] = [0x77, 8, 0x80, 0, 0x3f, 0x1a, b'*', 0x2a, 0x33, 0x24, 0x22];

/// What OpenSSL's multiplications say, with a byte for each `*`:
/// `breg7(*) breg9(0) lit8 mul plus deref plus_uconst(*)`.
const INDEXED: [u8; 10] = [0x77, b'*', 0x79, 0, 0x38, 0x1e, 0x22, 0x06, 0x23, b'*'];

/// `DW_OP_lit0`; the next fifteen follow.
const LIT0: u8 = 0x30;

/// How many bytes of a PLT entry come before its push, if this is what ld says of it.
pub(crate) fn plt(expression: Slice<'_>) -> Option<u8> {
    let bytes = expression.slice();
    let alike = bytes.len() == PLT.len()
        && bytes.iter().zip(PLT).all(|(byte, plt)| plt == b'*' || *byte == plt);
    let literal = bytes.get(6)?.checked_sub(LIT0)?;
    (alike && literal < 16).then_some(literal)
}

/// What is added below and above what is stored at the stack pointer and eight times r9, if
/// this is such an expression.
pub(crate) fn indexed(expression: Slice<'_>) -> Option<(i32, i32)> {
    let bytes = expression.slice();
    let alike = bytes.len() == INDEXED.len()
        && bytes.iter().zip(INDEXED).all(|(byte, indexed)| indexed == b'*' || *byte == indexed);
    let (off, add) = (*bytes.get(1)?, *bytes.get(9)?);
    // Of one byte, and the first not negative.
    (alike && off < 0x40 && add < 0x80).then_some((i32::from(off), i32::from(add)))
}

/// What an expression says, if it is a sum. Rules of registers start with the CFA on
/// the stack, that of the CFA with nothing.
pub(crate) fn sum(
    expression: Slice<'_>,
    encoding: gimli::Encoding,
    sp: Register,
    fp: Register,
    start: Option<Base>,
) -> Option<Sum> {
    let mut stack: Vec<Sum> = Vec::with_capacity(MAX_DEPTH);
    stack.extend(start.map(|base| Sum { base, add: 0 }));
    let mut operations = Expression(expression).operations(encoding);
    while let Some(operation) = operations.next().ok()? {
        let value = match operation {
            Operation::RegisterOffset { register, offset, base_type: gimli::UnitOffset(0) } => {
                let base = match register {
                    r if r == sp => Base::Sp,
                    r if r == fp => Base::Fp,
                    _ => return None,
                };
                Sum { base, add: offset }
            }
            Operation::UnsignedConstant { value } => {
                Sum { base: Base::Nothing, add: i64::try_from(value).ok()? }
            }
            Operation::SignedConstant { value } => Sum { base: Base::Nothing, add: value },
            Operation::PlusConstant { value } => {
                let top = stack.pop()?;
                Sum { base: top.base, add: top.add.checked_add(i64::try_from(value).ok()?)? }
            }
            Operation::Plus => {
                let (b, a) = (stack.pop()?, stack.pop()?);
                let base = match (a.base, b.base) {
                    (base, Base::Nothing) | (Base::Nothing, base) => base,
                    _ => return None,
                };
                Sum { base, add: a.add.checked_add(b.add)? }
            }
            Operation::Minus => {
                let (b, a) = (stack.pop()?, stack.pop()?);
                if b.base != Base::Nothing {
                    return None;
                }
                Sum { base: a.base, add: a.add.checked_sub(b.add)? }
            }
            Operation::Deref { base_type: gimli::UnitOffset(0), size: 8, space: false } => {
                let top = stack.pop()?;
                let base = match top.base {
                    Base::Sp => Base::AtSp(top.add),
                    Base::Fp => Base::AtFp(top.add),
                    _ => return None,
                };
                Sum { base, add: 0 }
            }
            Operation::Nop => continue,
            _ => return None,
        };
        if stack.len() == MAX_DEPTH {
            return None;
        }
        stack.push(value);
    }
    stack.pop()
}

#[cfg(test)]
mod tests {
    use gimli::Encoding;
    use gimli::Format;
    use gimli::X86_64;

    use super::*;

    fn of(bytes: &[u8], start: Option<Base>) -> Option<Sum> {
        let encoding = Encoding { address_size: 8, format: Format::Dwarf32, version: 4 };
        sum(EndianSlice::new(bytes, LittleEndian), encoding, X86_64::RSP, X86_64::RBP, start)
    }

    #[test]
    fn what_compilers_write() {
        // breg6 -8, deref: gcc after it realigned the stack.
        let drap = Sum { base: Base::AtFp(-8), add: 0 };
        assert_eq!(of(&[0x76, 0x78, 0x06], None), Some(drap));
        // breg7 24, deref, plus_uconst 8: OpenSSL's assembly.
        let kept = Sum { base: Base::AtSp(24), add: 8 };
        assert_eq!(of(&[0x77, 24, 0x06, 0x23, 8], None), Some(kept));
        // breg7 24, deref, lit8, plus.
        assert_eq!(of(&[0x77, 24, 0x06, 0x38, 0x22], None), Some(kept));
        // breg6 0, for a register's rule.
        assert_eq!(of(&[0x76, 0], Some(Base::Cfa)), Some(Sum { base: Base::Fp, add: 0 }));
        // lit16, minus, for a register's rule: below the CFA.
        let below = Sum { base: Base::Cfa, add: -16 };
        assert_eq!(of(&[0x40, 0x1c], Some(Base::Cfa)), Some(below));
    }

    #[test]
    fn what_is_no_sum() {
        assert_eq!(of(&[], None), None);
        assert_eq!(of(&[0x22], None), None, "nothing to add");
        assert_eq!(of(&[0x77, 0, 0x77, 0, 0x22], None), None, "two registers");
        assert_eq!(of(&[0x72, 0], None), None, "another register");
        assert_eq!(of(&[0x77, 0, 0x09, 0xc0, 0x1a], None), None, "masked");
        assert_eq!(of(&[0x76, 0, 0x06, 0x06], None), None, "stored where something is stored");
        assert_eq!(of(&[0x31; 64], None), None, "too many");
        assert_eq!(of(&[0x2f, 0xfd, 0xff], None), None, "a jump to itself");
    }

    #[test]
    fn plt_of_both_kinds() {
        let mut bytes = PLT;
        for before in [10, 11] {
            bytes[6] = LIT0 + before;
            assert_eq!(plt(EndianSlice::new(&bytes, LittleEndian)), Some(before));
        }
        bytes[6] = LIT0 + 16;
        assert_eq!(plt(EndianSlice::new(&bytes, LittleEndian)), None);
        bytes[6] = LIT0 + 11;
        bytes[1] = 16;
        assert_eq!(plt(EndianSlice::new(&bytes, LittleEndian)), None);
        assert_eq!(plt(EndianSlice::new(&bytes[..6], LittleEndian)), None);
    }

    #[test]
    fn what_openssl_keeps_at_an_index() {
        let mut bytes = INDEXED;
        (bytes[1], bytes[9]) = (8, 16);
        assert_eq!(indexed(EndianSlice::new(&bytes, LittleEndian)), Some((8, 16)));
        assert_eq!(indexed(EndianSlice::new(&bytes[..9], LittleEndian)), None);
        bytes[1] = 0x78;
        assert_eq!(indexed(EndianSlice::new(&bytes, LittleEndian)), None, "negative");
        (bytes[1], bytes[2]) = (8, 0x78);
        assert_eq!(indexed(EndianSlice::new(&bytes, LittleEndian)), None, "another register");
    }
}
