package bench

import (
	"context"

	"golang.org/x/sys/unix"

	"had/internal/lab"
)

// fault is one way to lose an owner.
type fault struct {
	key   string
	title string
	about string // what is done, for the page
	// prepare, unless it is nil, is done with an owner that is well.
	prepare func(ctx context.Context, c *site, owner *lab.Host) error
	// strike makes it happen and returns how to mend it; nil: nothing was
	// broken but a process that ended, which is started again anyway.
	strike func(ctx context.Context, c *site, owner *lab.Host) (mend func() error, err error)
}

// faults returns them in the order in which they are measured and shown.
func faults() []fault {
	return []fault{
		{
			key: "crash", title: "SIGKILL",
			about:  "SIGKILL of the daemon; of keepalived, of the VRRP process, which its parent then starts again. (SIGKILL of the parent is as SIGTERM to keepalived: the VRRP process learns of it and says farewell.)",
			strike: crash(false),
		},
		{
			key: "crash-all", title: "SIGKILL of all",
			about:  "SIGKILL of every process of the product on the owner at one instant, as when its cgroup is killed. It is started again when the fault is mended.",
			strike: crash(true),
		},
		{
			key: "stop", title: "SIGTERM",
			about:  "SIGTERM, as systemctl stop sends it.",
			strike: stop,
		},
		{
			key: "move", title: "planned move",
			about: "hactl move. keepalived has no command for it; the nearest is to stop it on the owner, whose farewell advertisement of priority 0 is its fastest way.",
			strike: func(ctx context.Context, c *site, owner *lab.Host) (func() error, error) {
				return nil, c.product.move(ctx, owner)
			},
		},
		{
			key: "link", title: "link down",
			about: "The owner's cable is pulled.",
			strike: func(_ context.Context, c *site, owner *lab.Host) (func() error, error) {
				return func() error { return c.lab.LinkUp(owner.Name) }, c.lab.LinkDown(owner.Name)
			},
		},
		{
			key: "isolated", title: "isolated owner",
			about: "The switch drops every packet from and to the owner, whose link stays up. (What it answers meanwhile reaches nobody here; in a larger network, whoever is on its side of the cut.)",
			strike: func(_ context.Context, c *site, owner *lab.Host) (func() error, error) {
				return c.lab.Heal, c.lab.Isolate(owner.Name)
			},
		},
		{
			key: "split", title: "partition",
			about: "The switch drops every packet between the owner and the other servers; the client still reaches them all.",
			strike: func(_ context.Context, c *site, owner *lab.Host) (func() error, error) {
				for _, other := range c.others(owner.Name) {
					if err := c.lab.CutBoth(owner.Name, other); err != nil {
						return c.lab.Heal, err
					}
				}
				return c.lab.Heal, nil
			},
		},
		{
			key: "pause", title: "SIGSTOP",
			about:  "SIGSTOP of the daemon, and SIGCONT to mend it; of keepalived, of the VRRP process.",
			strike: freeze(false),
		},
		{
			key: "pause-all", title: "SIGSTOP of all",
			about:  "SIGSTOP of every process of the product on the owner, and SIGCONT to mend it.",
			strike: freeze(true),
		},
	}
}

func crash(everything bool) func(context.Context, *site, *lab.Host) (func() error, error) {
	return func(_ context.Context, c *site, owner *lab.Host) (func() error, error) {
		pids, err := c.victims(owner, everything)
		if err != nil {
			return nil, err
		}
		return nil, kill(pids)
	}
}

func stop(_ context.Context, c *site, owner *lab.Host) (func() error, error) {
	return nil, c.first[owner.Name].Signal(unix.SIGTERM)
}

func freeze(everything bool) func(context.Context, *site, *lab.Host) (func() error, error) {
	return func(_ context.Context, c *site, owner *lab.Host) (func() error, error) {
		pids, err := c.victims(owner, everything)
		if err != nil {
			return nil, err
		}
		return func() error { return signal(pids, unix.SIGCONT) }, signal(pids, unix.SIGSTOP)
	}
}
