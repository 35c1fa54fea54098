//! Faults: what becomes of jobs when nodes, processes and networks fail, on real RabbitMQ nodes. Nothing confirmed is
//! ever lost, and everybody comes back by himself.
//!
//! Each test runs on RabbitMQ 3.10, 4.0 and 4.3. Most share the nodes that `LEVERET_TEST_RABBITMQ3`, `..4` and `..43`
//! name, behind a [proxy](support::proxy) of their own that fails as networks do. Tests that hurt a node have one for
//! themselves, which `scripts/rabbitmq` starts for this process and removes when it ends. Where a RabbitMQ is missing, one
//! line says so. With `LEVERET_FAULT_ROUNDS=20` what can go wrong by chance is done twenty times over.
//!
//! Failures of other libraries, reproduced, and the tests that show that they are not ours (`faults` is this program;
//! the others stand beside it):
//!
//! | failure | test |
//! |---|---|
//! | publish to a missing queue returns `Ok` | `brokers::publish::mandatory_message_that_no_queue_takes_is_an_error`; pipelined: `rabbitmq::publish::returns_are_attributed_to_the_right_publish_under_pipelining` |
//! | unconfirmed publish lost at a broker's restart | [`broker_killed`]; never a false `Ok`: `half_open::publish_without_an_answer_is_unconfirmed_and_never_ok` |
//! | unknown task acked and deleted | `worker::unknown_task::*` |
//! | prefetch not held | `brokers::prefetch::fifty_jobs_pass_under_prefetch_two`, `prefetch_is_exact`; of a worker: `worker::concurrency::*` |
//! | prefetch unlimited after a reconnect | `network::prefetch_is_exact_after_a_reset` |
//! | a TCP reset ends the worker | `network::nothing_is_lost_by_one_reset_after_another` |
//! | producers never reconnect | the same, and `network::publisher_waits_for_a_broker_that_refuses_connections` |
//! | queue deleted under a live consumer: silent, one core busy | [`deleted`] |
//! | undecodable body crashes or loops | `interop::bad_message::*`; a message that lapin cannot parse: [`unparsable`] |
//! | a panic hangs shutdown | `worker::failure::*panic*` |
//! | a second SIGTERM is ignored | `worker_killed::second_sigterm_stops_at_once`, `worker::signal::second_signal_stops_at_once` |
//! | a consumer-only process fails to start | `away::worker_process_waits_for_a_broker_that_is_not_up_yet` |
//! | a failed job without retry is discarded | `worker::failure::job_without_retries_left_is_a_dead_letter_that_says_why_and_where` |
//! | retry acks before its copy is confirmed | [`settlement`] |
//! | a short delay waits behind a long one | `brokers::delay::short_delay_does_not_wait_behind_a_long_one` |
//! | delayed jobs die with the broker | [`broker_killed`], the rows `delayed` and `retried` |
//! | double ack closes the channel | impossible by type, `Delivery::settle` takes the delivery; across connections: `network::deliveries_of_an_old_connection_settle_nothing_on_the_new_one` |
//! | jitter in the wrong unit | `queue_core::retry::tests::jitter_adds_at_most_a_quarter_and_never_takes_away` |
//!
//! What else a RabbitMQ in production does to its clients:
//!
//! | fault | test |
//! |---|---|
//! | a node restarts while clients publish and workers work | [`broker_killed`] |
//! | a worker's process is killed, or told to stop, also while the broker is away | [`worker_killed`] |
//! | a job runs for longer than `consumer_timeout` | `operator::job_longer_than_consumer_timeout_goes_back_and_disturbs_no_other_queue` |
//! | a job aborts its process, again and again | [`crash_loop`] |
//! | lost connections, killed nodes, orderly stops, operators that look: none is taken for a crash of the worker | [`no_crash`] |
//! | memory alarm | [`alarm`] |
//! | a node of several that freezes; one that does not, though a queue of it hangs | [`frozen`] |
//! | several operators and many questions at once, on a connection that is slow for a moment | [`control`] |
//! | half-open connection, idle or with a full send buffer; close of one | [`half_open`] |
//! | a server that accepts and never speaks | `rabbitmq::connect::server_that_accepts_and_never_speaks_is_given_up_and_leaves_no_thread` |
//! | connection refused, at the start or later; found again within seconds, and not by all at once | [`away`], `network::publisher_waits_…`, `network::publish_to_a_broker_that_stays_away_is_an_error_that_says_why` |
//! | wrong password, missing vhost | `rabbitmq::connect::*_is_refused_at_once_*`; changed while we run: `operator::changed_password_is_said_aloud_and_tried_again` |
//! | connections closed by the operator; the next host of the list | `operator::closed_connections_come_back`, `network::next_host_takes_over` |
//! | users with few permissions, as docs/security.md gives them | [`permission`] |
//! | names that are not UTF-8 | [`unparsable`] |
//! | a handler that blocks past the heartbeats | `network::handler_that_blocks_its_thread_costs_no_heartbeat` |
//! | a publish that is given up; its confirm comes later | `network::confirm_that_comes_too_late_is_nobody_elses` |
//! | dead letters that nobody takes | `settlement::original_stays_until_its_dead_letter_is_confirmed`, `brokers::dead_letter::*_is_not_lost` |
//! | a client closes while it moves a delayed job | `settlement::delayed_job_that_arrives_while_its_client_closes_arrives_once` |
//! | a connection, or the patience of `consumer_timeout`, ends while a worker holds jobs that have not begun | [`lost`] |
//! | somebody deletes a rung of the ladder, `due`, a dead-letter queue, or a queue that delayed jobs are for | [`ladder`] |
//! | machines whose clocks disagree | `rabbitmq::clock::*` |
//! | an ack is lost; a job comes again while it runs | [`repeat`] |
//! | the retry is confirmed, its ack is lost | `settlement::ack_lost_after_its_retry_runs_the_job_twice_and_loses_nothing`, `settlement::ack_lost_after_its_snooze_brings_two_that_are_told_apart` |

#[macro_use]
mod support;

mod alarm;
mod away;
mod broker_killed;
mod control;
mod crash_loop;
mod deleted;
mod frozen;
mod half_open;
mod ladder;
mod lost;
mod network;
mod no_crash;
mod operator;
mod permission;
mod repeat;
mod settlement;
mod unparsable;
mod worker_killed;
