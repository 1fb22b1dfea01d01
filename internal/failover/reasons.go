package failover

import (
	"fmt"

	hadv1 "had/proto/had/v1"
)

// reasons are why a node can't have the turn now: each with what it is about, how bad
// it is and what to do about it, set where that is known.
type reasons []*hadv1.Finding

// The words for what a reason is about, as checklists have them.
const (
	aboutItself  = "itself"
	aboutRole    = "role"
	aboutPolicy  = "policy"
	aboutGuard   = "guard"
	aboutTurns   = "turns"
	aboutDrain   = "drain"
	aboutCheck   = "check"
	aboutLink    = "link"
	aboutAddress = "address"
	aboutVolumes = "volumes"
	aboutSync    = "sync"
	aboutToken   = "token"
	aboutScripts = "scripts"
)

func (r *reasons) add(about, advice, format string, args ...any) {
	*r = append(*r, &hadv1.Finding{Check: about, Level: hadv1.Finding_LEVEL_FAIL, Detail: fmt.Sprintf(format, args...), Advice: advice})
}

// each adds sentences that others have found.
func (r *reasons) each(about, advice string, sentences []string) {
	for _, s := range sentences {
		r.add(about, advice, "%s", s)
	}
}

// texts are the sentences alone.
func (r reasons) texts() (out []string) {
	for _, f := range r {
		out = append(out, f.GetDetail())
	}
	return out
}

// reasonsOf are those of a node's answer. Of an older had only the sentences are known.
func reasonsOf(h *hadv1.HealthResponse) reasons {
	if all := h.GetBlockers(); len(all) > 0 {
		return all
	}
	var r reasons
	r.each(aboutItself, "", h.GetReasons())
	return r
}

// severity orders a checklist: what keeps a node from owning comes first, what is well
// last. What a newer had means is not taken for good.
func severity(l hadv1.Finding_Level) int {
	switch l {
	case hadv1.Finding_LEVEL_WARN:
		return 1
	case hadv1.Finding_LEVEL_SKIPPED:
		return 2
	case hadv1.Finding_LEVEL_OK:
		return 3
	case hadv1.Finding_LEVEL_FAIL, hadv1.Finding_LEVEL_UNSPECIFIED:
	}
	return 0
}

// bySeverity compares findings for a stable sort.
func bySeverity(a, b *hadv1.Finding) int { return severity(a.GetLevel()) - severity(b.GetLevel()) }
