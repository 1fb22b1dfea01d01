package policy

import "github.com/hashicorp/hcl/v2"

// CheckSupported refuses what ParsePolicy understands and the daemon of this
// version can't carry out yet: volumes, their fence and release_grace. Whoever
// puts a policy in force asks it first. It doesn't change p, and goes away
// when all of it is carried out.
func (p *Policy) CheckSupported() Diagnostics {
	s := &source{name: p.filename, text: p.text}
	refuse := func(at hcl.Range, name string) {
		s.errorf(at, "remove it: had refuses what it can't do, rather than ignore it", "this version of had does not support %s yet", quote(name))
	}
	for _, v := range p.raw.volumes {
		refuse(v.at, "volume")
	}
	if p.raw.fence.written {
		refuse(p.raw.fence.at, "fence")
	}
	if p.ReleaseGrace > 0 {
		refuse(p.raw.graceAt, "release_grace")
	}
	return s.result()
}
