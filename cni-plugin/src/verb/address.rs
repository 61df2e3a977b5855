//! The addresses of a new interface: the agent says which blocks they may be of, the disk says which are free.

use std::net::IpAddr;

use margay_api::agent::{Addressing, NoAddress, Request, Response};
use margay_ipam::{Choice, Error, Store};

use crate::{
    agent::{Agent, AgentError},
    config::{Args, Attachment, Config},
    result::{Code, Failure},
};

/// How often the agent is asked: what it named may be gone by the time it is looked at, when many pods come at once.
const ATTEMPTS: u32 = 4;

/// One of each family that the agent names blocks of; all or none.
pub(super) fn allocate(
    agent: &mut Agent,
    store: &Store,
    attachment: &Attachment,
    config: &Config,
    args: &Args,
) -> Result<Vec<IpAddr>, Failure> {
    let addresses: Vec<IpAddr> = config.wishes.iter().copied().chain(args.address).collect();
    let request = Request::Addressing { pod: args.pod.clone(), addresses };
    let mut left = ATTEMPTS;
    loop {
        left -= 1;
        let Addressing { blocks, excluded, addresses } = ask(agent, &request, config)?;
        let choice = Choice { blocks: &blocks, excluded: &excluded, wishes: &addresses };
        match store.allocate_from(&attachment.owner, choice) {
            Ok(reserved) => return Ok(reserved.addresses),
            // The blocks were filled, or given back, since the agent looked.
            Err(Error::Exhausted { .. } | Error::NotOurs(_)) if left > 0 => {}
            Err(error) => {
                let code = match error {
                    Error::Exhausted { .. } => Code::Exhausted,
                    Error::NoBlock => Code::TryAgain,
                    Error::NotOurs(_) | Error::Withheld(_) | Error::Taken { .. } => Code::Config,
                    _ => Code::Io,
                };
                return Err(Failure::new(code, "allocate an address").because(&error));
            }
        }
    }
}

fn ask(agent: &mut Agent, request: &Request, config: &Config) -> Result<Addressing, Failure> {
    let failed = |code, error: &AgentError| Failure::new(code, "allocate an address").because(error);
    match agent.tell(request, config.policy_wait).and_then(|()| agent.hear()) {
        Ok(Response::Addressing(addressing)) => Ok(addressing),
        Ok(Response::NoAddress { cause, reason }) => {
            let code = match cause {
                NoAddress::Full => Code::Exhausted,
                NoAddress::Refused => Code::Config,
                NoAddress::Later => Code::TryAgain,
            };
            Err(Failure::new(code, format!("allocate an address: {reason}")))
        }
        Ok(Response::Refused { reason } | Response::Degraded { reason }) => {
            Err(failed(Code::TryAgain, &AgentError::Refused(reason)))
        }
        Ok(Response::Done) => {
            Err(failed(Code::Io, &AgentError::Answer("it says that it is done, but names no block".into())))
        }
        Err(error @ AgentError::Answer(_)) => Err(failed(Code::Io, &error)),
        Err(error) => Err(failed(Code::TryAgain, &error)),
    }
}
