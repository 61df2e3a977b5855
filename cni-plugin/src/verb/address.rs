//! The addresses of a new interface: the agent says which blocks they may be of, the disk says which are free.

use std::{net::IpAddr, time::Duration};

use margay_api::agent::{Addressing, NoAddress, Request, Response};
use margay_ipam::{Choice, Error, Owner, Store};

use crate::{
    agent::{Agent, AgentError},
    config::{Args, Config},
    result::{Code, Failure},
};

/// How often the agent is asked: what it named may be gone by the time it is looked at, when many pods come at once.
const ATTEMPTS: u32 = 4;

/// The question which addresses an interface may have.
pub(super) struct Asked<'a> {
    agent: &'a mut Agent,
    request: Request,
    wait: Duration,
}

/// Asks the agent; it is at the answer while other things are done.
pub(super) fn ask<'a>(agent: &'a mut Agent, config: &Config, args: &Args) -> Result<Asked<'a>, Failure> {
    let addresses: Vec<IpAddr> = config.wishes.iter().copied().chain(args.address).collect();
    let request = Request::Addressing { pod: args.pod.clone(), addresses };
    let wait = config.policy_wait;
    agent.tell(&request, wait).map_err(|error| failed(&error))?;
    Ok(Asked { agent, request, wait })
}

impl Asked<'_> {
    /// Takes one of each family that the agent names blocks of; all or none.
    pub(super) fn allocate(self, store: &Store, owner: &Owner) -> Result<Vec<IpAddr>, Failure> {
        let Self { agent, request, wait } = self;
        let mut left = ATTEMPTS;
        loop {
            left -= 1;
            let Addressing { blocks, excluded, addresses } = hear(agent)?;
            let choice = Choice { blocks: &blocks, excluded: &excluded, wishes: &addresses };
            match store.allocate_from(owner, choice) {
                Ok(reserved) => return Ok(reserved.addresses),
                // The blocks were filled, or given back, since the agent looked.
                Err(Error::Exhausted { .. } | Error::NotOurs(_)) if left > 0 => {
                    agent.tell(&request, wait).map_err(|error| failed(&error))?;
                }
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
}

fn hear(agent: &mut Agent) -> Result<Addressing, Failure> {
    match agent.hear() {
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
            Err(failed(&AgentError::Refused(reason)))
        }
        Ok(Response::Done) => {
            Err(failed(&AgentError::Answer("it says that it is done, but names no block".into())))
        }
        Ok(other @ (Response::Dropped(_) | Response::Begun(_) | Response::Lost { .. })) => {
            Err(failed(&AgentError::Answer(format!("{other:?} is no answer to this request"))))
        }
        Err(error) => Err(failed(&error)),
    }
}

fn failed(error: &AgentError) -> Failure {
    let code = if matches!(error, AgentError::Answer(_)) { Code::Io } else { Code::TryAgain };
    Failure::new(code, "allocate an address").because(error)
}
