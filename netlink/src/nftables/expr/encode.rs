//! Expressions as the kernel wants them.

use super::{CmpOp, Expr, Found, Header, Register, number};
use crate::nftables::{LIST_ELEMENT, OBJECT_COUNTER, attribute::Writer, element::VALUE};

impl Expr {
    /// Its attribute, in a list of expressions.
    pub(in crate::nftables) fn encode(&self, writer: &mut Writer) {
        writer.nest(LIST_ELEMENT, |expr| {
            expr.text(number::NAME, self.name());
            expr.nest(number::DATA, |data| self.encode_data(data));
        });
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Meta { .. } | Self::SetMeta { .. } => "meta",
            Self::Payload { .. } => "payload",
            Self::Cmp { .. } => "cmp",
            Self::Mask { .. } => "bitwise",
            Self::Lookup { .. } => "lookup",
            Self::Immediate { .. } | Self::Verdict(_) => "immediate",
            Self::CtState(_) => "ct",
            Self::FibSourceType(_) => "fib",
            Self::Limit { .. } => "limit",
            Self::Log { .. } => "log",
            Self::Counter(_) => "objref",
            Self::Masquerade => "masq",
            Self::NoTrack => "notrack",
        }
    }

    fn encode_data(&self, data: &mut Writer) {
        match self {
            Self::Meta { key, to } => {
                data.number(number::META_DREG, to.number());
                data.number(number::META_KEY, key.number());
            }
            Self::SetMeta { key, from } => {
                data.number(number::META_KEY, key.number());
                data.number(number::META_SREG, from.number());
            }
            Self::Payload { header, offset, length, to } => {
                let base = match header {
                    Header::Network => number::BASE_NETWORK,
                    Header::Transport => number::BASE_TRANSPORT,
                };
                data.number(number::PAYLOAD_DREG, to.number());
                data.number(number::PAYLOAD_BASE, base);
                data.number(number::PAYLOAD_OFFSET, *offset);
                data.number(number::PAYLOAD_LENGTH, *length);
            }
            Self::Cmp { from, op, value } => {
                let op = match op {
                    CmpOp::Eq => number::CMP_EQ,
                    CmpOp::Neq => number::CMP_NEQ,
                };
                data.number(number::CMP_SREG, from.number());
                data.number(number::CMP_OP, op);
                data.nest(number::CMP_DATA, |data| data.value(VALUE, value));
            }
            Self::Mask { register, mask } => {
                data.number(number::BITWISE_SREG, register.number());
                data.number(number::BITWISE_DREG, register.number());
                data.number(number::BITWISE_LENGTH, u32::try_from(mask.len()).unwrap_or(u32::MAX));
                data.number(number::BITWISE_OP, 0);
                data.nest(number::BITWISE_MASK, |data| data.value(VALUE, mask));
                data.nest(number::BITWISE_XOR, |data| data.value(VALUE, &vec![0; mask.len()]));
            }
            Self::Lookup { set, from, found } => {
                data.text(number::LOOKUP_SET, set);
                data.number(number::LOOKUP_SREG, from.number());
                match found {
                    Found::Is => {}
                    Found::IsNot => data.number(number::LOOKUP_FLAGS, number::LOOKUP_INVERTED),
                    Found::Value(to) => data.number(number::LOOKUP_DREG, to.number()),
                    Found::Verdict => data.number(number::LOOKUP_DREG, number::VERDICT_REGISTER),
                }
            }
            Self::Immediate { to, value } => {
                data.number(number::IMMEDIATE_DREG, to.number());
                data.nest(number::IMMEDIATE_DATA, |data| data.value(VALUE, value));
            }
            Self::Verdict(verdict) => {
                data.number(number::IMMEDIATE_DREG, number::VERDICT_REGISTER);
                data.nest(number::IMMEDIATE_DATA, |data| verdict.encode(data));
            }
            Self::CtState(to) => {
                data.number(number::CT_DREG, to.number());
                data.number(number::CT_KEY, number::CT_STATE);
            }
            Self::FibSourceType(to) => {
                data.number(number::FIB_DREG, to.number());
                data.number(number::FIB_RESULT, number::FIB_TYPE);
                data.number(number::FIB_FLAGS, number::FIB_SOURCE);
            }
            Self::Limit { per_second, burst } => {
                data.value(number::LIMIT_RATE, &per_second.to_be_bytes());
                data.value(number::LIMIT_UNIT, &1_u64.to_be_bytes());
                data.number(number::LIMIT_BURST, *burst);
                data.number(number::LIMIT_TYPE, 0);
                data.number(number::LIMIT_FLAGS, 0);
            }
            Self::Log { group, prefix, snaplen } => {
                data.value(number::LOG_GROUP, &group.to_be_bytes());
                data.text(number::LOG_PREFIX, prefix);
                data.number(number::LOG_SNAPLEN, *snaplen);
            }
            Self::Masquerade => data.number(number::MASQUERADE_FLAGS, number::FULLY_RANDOM),
            Self::NoTrack => {}
            Self::Counter(name) => {
                data.number(number::OBJREF_TYPE, OBJECT_COUNTER);
                // A name of an object is octets without an end of their own.
                data.text(number::OBJREF_NAME, name);
            }
        }
    }
}

impl Register {
    /// As the kernel gives it back: the first words of the long registers by their old numbers.
    fn number(self) -> u32 {
        let word = u32::from(self.0);
        if word.is_multiple_of(4) {
            number::LONG_REGISTERS + word / 4
        } else {
            number::SHORT_REGISTERS + word
        }
    }
}
