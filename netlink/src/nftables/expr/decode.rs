//! Expressions as the kernel shows them.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use super::{CmpOp, Expr, Found, Header, MetaKey, Register, number};
use crate::nftables::{OBJECT_COUNTER, Verdict, attribute::Attributes, element::VALUE};

impl Expr {
    /// `None` for what is none of these expressions, or says more than they can say.
    pub(in crate::nftables) fn decode(expr: &Attributes<'_>) -> Option<Self> {
        // Of what has nothing to say the kernel shows no data.
        if expr.text(number::NAME)? == "notrack" {
            return Some(Self::NoTrack);
        }
        let data = expr.nest(number::DATA)?;
        let register = |kind| data.number(kind).and_then(Register::of_number);
        let value = |kind| Some(data.nest(kind)?.value(VALUE)?.to_vec());
        match expr.text(number::NAME)? {
            "meta" => {
                let key = data.number(number::META_KEY)?;
                let key = MetaKey::ALL.into_iter().find(|known| known.number() == key)?;
                match register(number::META_SREG) {
                    Some(from) => Some(Self::SetMeta { key, from }),
                    None => Some(Self::Meta { key, to: register(number::META_DREG)? }),
                }
            }
            "payload" => {
                let header = match data.number(number::PAYLOAD_BASE)? {
                    number::BASE_NETWORK => Header::Network,
                    number::BASE_TRANSPORT => Header::Transport,
                    _ => return None,
                };
                let (offset, length) =
                    (data.number(number::PAYLOAD_OFFSET)?, data.number(number::PAYLOAD_LENGTH)?);
                Some(Self::Payload { header, offset, length, to: register(number::PAYLOAD_DREG)? })
            }
            "cmp" => {
                let op = match data.number(number::CMP_OP)? {
                    number::CMP_EQ => CmpOp::Eq,
                    number::CMP_NEQ => CmpOp::Neq,
                    _ => return None,
                };
                Some(Self::Cmp { from: register(number::CMP_SREG)?, op, value: value(number::CMP_DATA)? })
            }
            "bitwise" => {
                let (from, mask) = (register(number::BITWISE_SREG)?, value(number::BITWISE_MASK)?);
                let is_mask = data.number(number::BITWISE_OP).unwrap_or(0) == 0
                    && value(number::BITWISE_XOR)?.iter().all(|octet| *octet == 0);
                (is_mask && register(number::BITWISE_DREG) == Some(from))
                    .then_some(Self::Mask { register: from, mask })
            }
            "lookup" => {
                let found = match (
                    data.number(number::LOOKUP_DREG),
                    data.number(number::LOOKUP_FLAGS).unwrap_or(0),
                ) {
                    (None, 0) => Found::Is,
                    (None, number::LOOKUP_INVERTED) => Found::IsNot,
                    (Some(number::VERDICT_REGISTER), 0) => Found::Verdict,
                    (Some(number), 0) => Found::Value(Register::of_number(number)?),
                    _ => return None,
                };
                let set = data.text(number::LOOKUP_SET)?.to_owned();
                Some(Self::Lookup { set, from: register(number::LOOKUP_SREG)?, found })
            }
            "immediate" => {
                if data.number(number::IMMEDIATE_DREG)? == number::VERDICT_REGISTER {
                    return Verdict::decode(&data.nest(number::IMMEDIATE_DATA)?).map(Self::Verdict);
                }
                Some(Self::Immediate {
                    to: register(number::IMMEDIATE_DREG)?,
                    value: value(number::IMMEDIATE_DATA)?,
                })
            }
            "ct" => (data.number(number::CT_KEY)? == number::CT_STATE)
                .then_some(Self::CtState(register(number::CT_DREG)?)),
            "fib" => {
                let asked = (data.number(number::FIB_RESULT)?, data.number(number::FIB_FLAGS)?);
                (asked == (number::FIB_TYPE, number::FIB_SOURCE))
                    .then_some(Self::FibSourceType(register(number::FIB_DREG)?))
            }
            "limit" => {
                let plain = (
                    data.long(number::LIMIT_UNIT)?,
                    data.number(number::LIMIT_TYPE)?,
                    data.number(number::LIMIT_FLAGS)?,
                );
                let limit = Self::Limit {
                    per_second: data.long(number::LIMIT_RATE)?,
                    burst: data.number(number::LIMIT_BURST)?,
                };
                (plain == (1, 0, 0)).then_some(limit)
            }
            "log" => Some(Self::Log {
                group: data.value(number::LOG_GROUP)?.try_into().ok().map(u16::from_be_bytes)?,
                prefix: data.text(number::LOG_PREFIX)?.to_owned(),
                snaplen: data.number(number::LOG_SNAPLEN)?,
            }),
            "masq" => (data.number(number::MASQUERADE_FLAGS) == Some(number::FULLY_RANDOM))
                .then_some(Self::Masquerade),
            "objref" => {
                let name = data.text(number::OBJREF_NAME)?.to_owned();
                (data.number(number::OBJREF_TYPE)? == OBJECT_COUNTER).then_some(Self::Counter(name))
            }
            _ => None,
        }
    }
}

impl Register {
    fn of_number(number: u32) -> Option<Self> {
        let word = match number {
            number::LONG_REGISTERS..=4 => number.checked_sub(number::LONG_REGISTERS)?.checked_mul(4)?,
            number::SHORT_REGISTERS..=23 => number.checked_sub(number::SHORT_REGISTERS)?,
            _ => return None,
        };
        u8::try_from(word).ok().map(Self)
    }
}
