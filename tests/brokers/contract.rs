//! The promises, by subject. One line each; a promise that is missing here is never tested, and the compiler warns
//! that it is unused.

/// Makes each promise a test of one broker: `contract!(memory: place)` makes `memory::<promise>` of all of them.
macro_rules! contract {
    ($broker:ident: $place:expr) => {
        mod $broker {
            use crate::support::place::Place;

            const PLACE: Place = $place;

            promises! {
                publish: [
                    every_field_of_an_envelope_survives,
                    bare_message_arrives_without_additions,
                    body_of_many_frames_survives,
                    delivery_says_where_it_came_from,
                    jobs_arrive_in_the_order_they_were_published,
                    confirmed_means_present,
                    mandatory_message_that_no_queue_takes_is_an_error,
                    message_that_is_not_mandatory_may_reach_nobody,
                    message_by_the_default_exchange_must_reach_its_queue,
                    missing_exchange_fails_only_its_own_publish,
                    results_of_a_batch_are_those_of_its_messages,
                    results_of_a_long_batch_are_those_of_its_messages,
                    concurrent_publishers_get_their_own_results,
                    empty_batch_has_no_results,
                    two_jobs_of_one_id_are_two_jobs,
                    abandoned_publish_does_not_answer_for_the_next,
                ]
                size: [
                    overlong_names_are_refused_by_a_publish,
                    overlong_names_are_refused_everywhere_else,
                    headers_over_the_cap_are_refused,
                    headers_nested_too_deep_are_refused,
                    floats_that_are_no_numbers_are_refused,
                    huge_body_is_kept_or_refused,
                ]
                limit: [
                    full_queue_refuses_until_there_is_room,
                    batch_into_a_full_queue_is_told_apart,
                    overflow_dead_letters_the_oldest,
                    job_too_old_for_its_queue_becomes_a_dead_letter,
                    message_expires_by_its_own_expiration,
                    expired_message_is_never_delivered,
                    message_that_expired_behind_another_is_not_delivered_with_it,
                    higher_priority_is_delivered_first,
                    quorum_queue_delivers_by_32_strict_levels,
                ]
                prefetch: [
                    prefetch_is_exact,
                    fifty_jobs_pass_under_prefetch_two,
                    each_settlement_makes_room_for_one,
                    two_consumers_share_the_work,
                    busy_consumer_hoards_nothing,
                    deliveries_go_round_among_consumers,
                ]
                settle: [
                    acked_job_never_comes_back,
                    unsettled_job_comes_back,
                    deliveries_nobody_took_go_back_when_the_consumer_is_dropped,
                    delivery_outlives_its_consumer,
                    released_job_comes_back_first_and_costs_no_attempt,
                    delivery_dropped_unsettled_comes_back,
                    ack_counts_though_its_thread_is_blocked,
                    retried_job_comes_back_not_earlier_and_unchanged,
                    retry_at_once_comes_back,
                    retry_beyond_all_time_is_settled,
                    retried_job_keeps_its_priority,
                    retried_copy_carries_no_trace_of_the_broker,
                    copies_do_not_go_where_the_original_was_copied_to,
                    job_may_be_dead_lettered_and_retried_over_and_over,
                    concurrent_settlements_do_not_mix,
                    delivery_is_lost_with_its_client_and_not_with_its_consumer,
                    deliveries_of_a_deleted_queue_are_lost,
                ]
                give_back: [
                    job_given_back_over_and_over_is_as_it_was,
                    orderly_stops_cost_nothing,
                    only_lost_holders_count_for_the_delivery_limit,
                    given_back_job_does_not_reach_the_crash_limit,
                    job_given_back_to_a_full_queue_is_not_lost,
                    given_back_event_keeps_where_it_came_from,
                ]
                moved: [
                    moved_job_is_a_copy_with_the_headers_of_its_mover,
                ]
                mark: [
                    mark_stays_when_its_holder_is_lost,
                    mark_goes_when_its_holder_gives_the_job_back,
                    marked_job_is_settled_as_any_other,
                    mark_of_a_lost_delivery_is_an_error,
                ]
                liveness: [
                    client_lives_until_it_is_closed,
                ]
                snooze: [
                    snoozed_job_comes_back_not_earlier_and_unchanged,
                    snooze_keeps_what_an_earlier_failure_left,
                    snooze_until_what_is_over_comes_back_at_once,
                    snooze_beyond_all_time_is_settled,
                    snoozed_job_keeps_its_priority,
                    every_kind_of_queue_gets_its_snoozed_job_back,
                    snoozed_job_is_counted_as_delayed,
                    many_snoozed_jobs_none_early_none_lost,
                    snoozed_job_survives_its_client,
                    snoozed_job_of_a_full_queue_waits_for_room,
                    snoozed_job_whose_queue_is_gone_waits_for_it,
                    snoozed_job_sheds_headers_that_do_not_fit,
                    every_copy_that_runs_has_a_number_of_its_own,
                    absurd_copy_number_does_no_harm,
                ]
                dead_letter: [
                    dead_letter_arrives_with_its_reason,
                    settled_dead_letter_is_present,
                    dead_letters_can_be_replayed_as_soon_as_they_were_looked_at,
                    dead_letter_without_an_exchange_is_not_lost,
                    dead_letter_that_nothing_takes_is_not_lost,
                    deleted_dead_letter_queue_is_declared_again,
                    deleted_dead_letter_queue_is_declared_as_it_was_last,
                    dead_letter_refused_by_a_full_queue_is_not_lost,
                    dead_letter_goes_nowhere_only_where_that_was_asked_for,
                    delivery_limit_ends_in_the_dead_letters,
                    replayed_event_that_expired_keeps_where_it_came_from,
                ]
                browse: [
                    browse_shows_a_queue_page_by_page,
                    browse_by_small_pages_keeps_the_order,
                    walk_of_many_steps_keeps_the_order,
                    what_is_left_when_much_was_taken_keeps_the_order,
                    queue_that_is_deleted_during_a_page_is_not_found,
                    browse_shows_why_a_letter_is_dead,
                    browse_costs_a_message_at_most_one_delivery,
                    browse_shows_any_number_of_messages,
                    browse_goes_on_where_it_was_though_messages_came_and_went,
                    page_of_another_queue_is_refused,
                    page_of_a_queue_that_was_deleted_is_not_found,
                ]
                operator: [
                    abilities_are_those_that_it_has,
                    queues_are_listed_or_the_remedy_is_told,
                    missing_queue_is_not_found_by_an_operator,
                    queue_that_is_deleted_during_a_walk_is_not_found,
                    look_costs_a_letter_at_most_one_delivery,
                    letters_outlive_any_number_of_looks,
                    letter_of_the_broker_outlives_any_number_of_looks,
                    abandoned_look_loses_nothing,
                    operators_who_look_at_once_see_the_same,
                    operators_who_replay_at_once_replay_each_letter_once,
                    letter_shows_headers_and_properties,
                    replay_keeps_the_id_and_counts_itself,
                    replay_reaches_behind_what_it_leaves,
                    replay_does_not_meet_its_own_jobs_again,
                    replay_that_fails_says_how_many_it_replayed,
                    discard_takes_out_what_is_picked,
                    purge_drops_all_dead_letters,
                    delayed_job_whose_queue_was_gone_can_be_replayed,
                ]
                registry: [
                    store_is_there_or_the_remedy_is_told,
                    store_has_one_id_for_all_clients_of_a_broker,
                    worker_is_listed_with_what_it_runs_until_its_end,
                    client_is_listed_while_no_worker_uses_it,
                    member_that_falls_silent_is_gone_and_then_forgotten,
                    member_that_registers_again_is_listed_once,
                    closed_client_takes_its_members_along,
                    closed_client_has_no_registry,
                ]
                delay: [
                    delayed_job_arrives_not_earlier,
                    delay_of_zero_or_past_is_now,
                    short_delay_does_not_wait_behind_a_long_one,
                    many_delays_none_early_none_lost,
                    delayed_job_survives_its_publisher,
                    delayed_job_reaches_a_queue_that_nobody_consumes,
                    delayed_job_of_a_full_queue_waits_for_room,
                    what_has_nowhere_to_go_may_be_looked_at_often,
                    delayed_jobs_whose_queue_is_gone_wait_for_it,
                    delayed_job_whose_queue_stays_away_is_set_aside_and_can_be_replayed,
                    delay_by_an_exchange_is_refused,
                    delayed_jobs_keep_their_priority_at_their_queue,
                    batch_may_mix_delayed_and_immediate,
                ]
                routing: [
                    direct_exchange_routes_by_the_exact_key,
                    fanout_reaches_a_hundred_queues,
                    headers_exchange_matches_all_or_any,
                    queue_bound_twice_gets_a_message_once,
                    standard_exchanges_are_there,
                    bindings_of_a_deleted_queue_are_gone,
                    unbound_queue_gets_nothing_more_by_that_binding,
                    unbound_queue_gets_nothing_more_by_those_headers,
                    exact_bindings_take_out_all_others_or_are_refused,
                    exact_bindings_keep_what_is_made_and_nothing_else,
                ]
                topic: [
                    short_patterns_match_as_amqp_says,
                    random_patterns_match_as_amqp_says,
                    keys_of_255_bytes_match_as_amqp_says,
                    binding_by_three_hashes_is_refused_in_words,
                ]
                topology: [
                    same_declaration_twice_is_fine,
                    other_arguments_are_refused_by_name,
                    missing_or_added_arguments_are_refused,
                    one_bad_declaration_does_not_undo_the_others,
                    passive_declaration_only_looks,
                    passive_declaration_of_what_is_missing_is_an_error,
                    exchange_of_another_kind_is_refused,
                    quorum_queue_takes_no_highest_priority,
                    binding_to_what_is_missing_is_an_error,
                    missing_queue_cannot_be_consumed_or_inspected_or_purged,
                    exclusive_queue_belongs_to_one_client,
                    exclusive_queue_can_be_looked_at_by_its_client_only,
                    exclusive_queue_can_be_bound_and_unbound_later,
                    inspect_counts_what_is_ready_and_who_consumes,
                    purge_drops_what_is_ready_and_counts_it,
                    deleting_what_is_missing_is_fine,
                    consumer_survives_the_deletion_of_its_queue,
                    queue_deleted_by_its_own_client_can_be_declared_again,
                ]
                lifecycle: [
                    broker_says_what_it_is,
                    stopped_consumer_ends_after_what_is_here,
                    stopped_consumer_takes_no_new_jobs,
                    finished_consumer_has_settled_what_was_taken_and_given_back_the_rest,
                    consumer_finishes_while_a_delivery_is_held,
                    closed_client_says_so,
                    close_answers_everybody_who_waits,
                    close_ends_a_consumer_that_waits,
                    outside_of_a_tokio_runtime_things_work_or_say_that_they_need_one,
                ]
                reply: [
                    reply_reaches_who_asked,
                    replies_of_two_clients_do_not_mix,
                    replies_need_no_settlement,
                    request_without_a_reader_is_refused,
                    second_reader_is_refused_while_there_is_one,
                    reader_that_stopped_makes_room_for_another,
                    reply_to_a_caller_that_is_gone_is_dropped,
                    request_keeps_its_address_through_release_retry_and_snooze,
                    request_may_be_delayed,
                    request_may_go_to_an_exchange,
                    request_that_no_queue_takes_is_an_error,
                    request_is_told_what_keeps_its_reply_from_coming,
                    request_ends_when_nobody_reads_its_reply_any_more,
                    each_of_many_requests_is_told_what_became_of_it,
                    publish_to_a_missing_exchange_costs_nobody_his_reply,
                    reply_to_an_address_that_makes_no_sense_is_dropped,
                    reply_may_be_as_long_as_a_job,
                    closed_client_reads_no_replies,
                ]
                call: [
                    call_returns_what_a_plain_program_replies,
                    unit_is_null_or_nothing_at_all,
                    failure_arrives_with_its_kind_and_words,
                    reply_that_does_not_decode_is_named,
                    stray_and_second_replies_are_ignored,
                    concurrent_calls_get_their_own_replies_in_any_order,
                    call_that_nobody_works_says_so,
                    call_that_is_not_answered_in_time_times_out,
                    dropped_call_is_forgotten_and_disturbs_no_other,
                    call_works_again_after_its_queue_was_deleted,
                    call_that_cannot_be_enqueued_says_why,
                    full_queue_is_named_while_other_calls_wait,
                    call_in_flight_when_its_client_closes_is_lost,
                ]
                client: [
                    enqueue_declares_the_queue_and_sends_plain_json,
                    job_carries_its_format_and_version_through_a_delay,
                    delayed_enqueue_declares_the_queue_too,
                    job_brings_its_options_to_the_client_that_enqueues_it,
                    enqueue_all_takes_jobs_with_options,
                    enqueue_all_keeps_the_options_of_what_it_publishes_again,
                    enqueue_works_again_after_the_queue_was_deleted,
                    enqueue_all_works_again_after_the_queue_was_deleted,
                    enqueue_all_reports_each_job,
                    full_queue_is_named,
                    two_enqueued_jobs_of_one_id_are_two_jobs,
                    depth_counts_the_jobs_of_a_task,
                    dead_letters_of_a_task_are_those_of_its_queue,
                    replay_of_what_is_no_dead_letter_names_its_queue,
                    replay_of_a_task_leaves_the_letters_of_others,
                    longest_publish_timeout_is_taken,
                    twenty_megabytes_are_refused_before_they_are_sent,
                    names_that_amqp_cannot_carry_are_refused,
                    queue_with_other_arguments_is_an_error_at_enqueue,
                    closed_client_refuses_to_enqueue,
                    clones_enqueue_side_by_side,
                    raw_message_by_the_default_exchange_must_reach_its_queue,
                ]
            }
        }
    };
}

/// A test function for each promise.
macro_rules! promises {
    ($($subject:ident: [$($promise:ident),* $(,)?])*) => {
        $($(
            #[test]
            fn $promise() {
                crate::support::run(&PLACE, stringify!($promise), crate::$subject::$promise);
            }
        )*)*
    };
}
