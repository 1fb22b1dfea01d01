package telemetry

import (
	dto "github.com/prometheus/client_model/go"
)

// Metric is one that /metrics may have. Their names and labels are for dashboards
// and alerts of others to rest on: docs/metrics.md has them, and a test holds both
// together.
type Metric struct {
	Name   string
	Type   dto.MetricType
	Labels []string // beside cluster and node, which all have
	Help   string
}

// Catalogue is every metric, in the order of the page.
func Catalogue() []Metric {
	const (
		gauge   = dto.MetricType_GAUGE
		counter = dto.MetricType_COUNTER
		summary = dto.MetricType_SUMMARY
	)
	of := func(labels ...string) []string { return labels }
	return []Metric{
		{"had_build_info", gauge, of("version", "commit", "go"), "1: what runs on this node."},
		{"had_start_time_seconds", gauge, nil, "When this daemon started, in Unix time."},
		{"had_ready", gauge, nil, "1: this node takes part in a quorum, as /readyz says."},
		{"had_problems", gauge, nil, "How many things a person should look at on this node; hactl status names them."},
		{"had_eligible", gauge, nil, "1: this node could own now; hactl why-not says why it couldn't. A witness never could."},
		{"had_member_answers", gauge, of("member"), "1: the member answers. Only from the leader."},

		{"had_leader", gauge, of("member"), "1: this node knows the member as the leader."},
		{"had_term", gauge, nil, "The term of this node."},
		{"had_owner", gauge, of("member"), "1: by this node's copy of the log the member serves. Beside a node that is cut off another may know better: take the newest had_epoch."},
		{"had_epoch", gauge, nil, "The newest epoch in this node's copy of the log."},
		{"had_serving", gauge, nil, "1: this node serves, and its lease is good."},
		{"had_lease_remaining_seconds", gauge, nil, "How long this node's lease is good for; 0: it has none."},
		{"had_quorum_confirmed_age_seconds", gauge, nil, "How long ago this leader proposed the latest command that a quorum accepted. Only from the leader."},
		{"had_leader_contact_age_seconds", gauge, nil, "How long ago this node last heard from a leader. Not from the leader."},

		{"had_transitions_total", counter, of("member", "transition", "reason"), "Changes of ownership that came to this node since it started, by member: acquired (first, released, waited, rebooted, move, check), failed, vetoed, released (ordered, forced), closed, secured."},
		{"had_takeover_seconds", summary, of("member"), "From the beginning of an epoch until its owner served."},
		{"had_takeover_step_seconds", summary, of("member", "step"), "The steps of taking over, as in hactl why."},
		{"had_release_step_seconds", summary, of("member", "step"), "The steps of releasing."},
		{"had_hook_runs_total", counter, of("member", "stage", "outcome"), "Runs of scripts: ok, failed (it exited otherwise), signaled, timed_out, canceled, refused, unknown."},
		{"had_hook_seconds", summary, of("member", "stage"), "How long scripts ran."},

		{"had_frozen", gauge, nil, "1: ownership is frozen."},
		{"had_held", gauge, nil, "1: the limits hold the owner until hactl resume."},
		{"had_drained", gauge, of("member"), "1: the member is drained."},
		{"had_policy_version", gauge, nil, "Version of the policy in this node's copy of the log; 0: none."},
		{"had_policy_in_force_version", gauge, nil, "Version that this node acts by; another than had_policy_version: it can't read that."},

		{"had_guard_up", gauge, nil, "1: the guard beside this daemon guards what it holds. Not from a witness."},
		{"had_gate_up", gauge, nil, "1: the packet gate is in this host's kernel. Not from a witness."},
		{"had_watchdog_armed", gauge, nil, "1: this host's watchdog is armed. Not from a witness."},
		{"had_volumes_waiting", gauge, nil, "Epochs whose volumes wait for evidence that their owner no longer writes. Only from the leader."},
		{"had_check_passing", gauge, of("check", "kind"), "1: the check passes on this node. None before its first result that counts, or where it doesn't run."},
		{"had_sync_age_seconds", gauge, of("sync"), "How old this node's copy is."},
		{"had_sync_failures", gauge, of("sync"), "Runs that failed in a row."},
		{"had_sync_held", gauge, of("sync"), "1: nothing is copied until hactl sync resume."},
		{"had_token_version", gauge, of("token"), "Version of the token's content in this node's copy of the log."},
		{"had_token_in_place_version", gauge, of("token"), "Version in place on this node; 0: none, or it isn't replicated."},
		{"had_token_amiss", gauge, of("token"), "1: this node hasn't the token in place as it should be."},

		{"had_notifications_waiting", gauge, of("channel"), "Events that the channel hasn't told yet. Only from the leader."},
		{"had_notification_failed_tries", gauge, of("channel"), "Tries in vain of the message under way. Only from the leader."},
		{"had_notifications_total", counter, of("channel", "outcome"), "Messages that were settled: sent, gave_up."},

		{"had_commit_seconds", dto.MetricType_HISTOGRAM, nil, "From a proposal of this node, as leader, until a quorum had accepted it: its network and the disks of a majority."},
		{"had_log_last_index", gauge, nil, "The newest entry on this node's disk."},
		{"had_log_commit_index", gauge, nil, "The newest entry that this node knows to be accepted."},
		{"had_log_applied_index", gauge, nil, "The newest entry that this node acts by."},
		{"had_reports_pending", gauge, nil, "What this node did and couldn't yet put into the log."},
		{"had_data_bytes", gauge, nil, "What this node's data folder holds."},
		{"had_data_free_bytes", gauge, nil, "What is left of the file system it is on."},
		{"had_certificate_expiry_timestamp_seconds", gauge, of("certificate"), "When the certificate in use expires, in Unix time: node, ca (the first of those that vouch for it)."},
	}
}
