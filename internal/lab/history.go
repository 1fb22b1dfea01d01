package lab

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Times in this package are time.Time values from time.Now: they carry
// CLOCK_MONOTONIC, which Sub, Before and After use, and the wall clock, which
// people read.

// Transition is one change of who holds an address.
type Transition struct {
	At   time.Time // when the observer read the kernel's event
	Host string
	Held bool // true: the host has the address from now on
}

// History is what happened to one address while it was watched. The order of
// its transitions is the kernel's; their times may be late by the observer's
// delay, but never out of order.
type History struct {
	VIP         netip.Addr
	Start, End  time.Time
	Transitions []Transition
}

// Overlap is a time in which several hosts had the address: From is part of
// it, To is not.
type Overlap struct {
	From, To time.Time
	Hosts    []string // in byte order
}

// Vacancy is a time in which no host had the address: From is part of it, To
// is not.
type Vacancy struct{ From, To time.Time }

// Holders returns the hosts that have the address at the end, in byte order.
func (h History) Holders() []string {
	var last []string
	h.each(func(_, _ time.Time, hosts []string) { last = hosts })
	return last
}

// Overlaps returns every time in which more than one host had the address;
// a change of the hosts within one time begins another.
func (h History) Overlaps() []Overlap {
	var overlaps []Overlap
	h.each(func(from, to time.Time, hosts []string) {
		if len(hosts) > 1 {
			overlaps = append(overlaps, Overlap{from, to, hosts})
		}
	})
	return overlaps
}

// Vacancies returns every time in which no host had the address, those before
// the first holder and after the last included.
func (h History) Vacancies() []Vacancy {
	var vacancies []Vacancy
	h.each(func(from, to time.Time, hosts []string) {
		if len(hosts) == 0 {
			vacancies = append(vacancies, Vacancy{from, to})
		}
	})
	return vacancies
}

// Owners returns the hosts in the order in which they got the address.
func (h History) Owners() []string {
	var owners []string
	for _, t := range h.Transitions {
		if t.Held {
			owners = append(owners, t.Host)
		}
	}
	return owners
}

// each calls visit for every span between two transitions, with who had the
// address in it. The last call is for the span that ends at End.
func (h History) each(visit func(from, to time.Time, hosts []string)) {
	var hosts []string
	from := h.Start
	for _, t := range h.Transitions {
		visit(from, t.At, hosts)
		from = t.At
		hosts = slices.DeleteFunc(slices.Clone(hosts), func(name string) bool { return name == t.Host })
		if t.Held {
			hosts = append(hosts, t.Host)
			slices.Sort(hosts)
		}
	}
	visit(from, h.End, hosts)
}

// String shows one line a transition, with the time since the start.
func (h History) String() string {
	var b strings.Builder
	for _, t := range h.Transitions {
		sign := "-"
		if t.Held {
			sign = "+"
		}
		fmt.Fprintf(&b, "%12.3f ms  %s%s on %s\n", float64(t.At.Sub(h.Start))/float64(time.Millisecond), sign, h.VIP, t.Host)
	}
	return b.String()
}
