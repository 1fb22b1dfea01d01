package nettest

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"had/internal/clock"
	"had/internal/lab"
)

var (
	databaseTrials = flag.Int("database.n", 0, "end the owner of a database so often, in ways and at moments drawn at random; 0: in some ways once")
	databaseFault  = flag.String("database.fault", "", "instead of any way, only in this one, such as \"SIGTERM of had\"")
)

// remarkable is a time without a commit that is worth a look at what happened.
const remarkable = 10 * time.Second

// databaseSite is PostgreSQL on a volume, as scripts/examples/postgresql has it,
// with a client that commits all the time.
type databaseSite struct {
	*exampleSite

	cluster string // as Debian's tools name it: "15/main"
	notes   string // what the client was told is committed
	client  *lab.Process
	gaps    map[string][]time.Duration // without a commit, by trouble
}

func newDatabaseSite(t *testing.T, fstype string) *databaseSite {
	t.Helper()
	needs(t, "pg_createcluster")
	version := filepath.Base(filepath.Dir(filepath.Dir(postgresProgram(t, "postgres"))))
	d := &databaseSite{
		exampleSite: newExampleSite(t, "postgresql", lab.Volume{Name: "pgdata", FSType: fstype}),
		cluster:     version + "/main", notes: filepath.Join(t.TempDir(), "committed"), gaps: map[string][]time.Duration{},
	}
	d.served = d.commits
	d.edits = strings.NewReplacer(
		exampleVIP, d.address.String(), exampleDevice, d.volumes[0].Device(),
		"15/main", d.cluster, "15 main", version+" main", "/15", "/"+version,
		"192.0.2.0/24", "10.77.0.0/24", "'PASSWORD'", "'secret'",
	)
	t.Cleanup(func() {
		if t.Failed() {
			d.showDatabase(t)
		}
	})
	d.prepare(t)
	return d
}

// prepare does what the README says, up to the first takeover.
func (d *databaseSite) prepare(t *testing.T) {
	t.Helper()
	for _, node := range d.owners() {
		d.run(t, node, "rm -rf /etc/postgresql/*") // what this machine has of its own
	}
	d.enact(t)
	first := d.settled(t)
	d.mounted(t, first)
	d.does(t, first, "pg_createcluster --datadir=/srv/pgdata/15/main --start-conf=manual --locale=C.UTF-8 15 main -- --data-checksums")
	d.does(t, first, "install -o postgres -g postgres -m 0644 had.conf /etc/postgresql/15/main/conf.d/")
	d.does(t, first, "echo 'host all all 192.0.2.0/24 scram-sha-256' >>/etc/postgresql/15/main/pg_hba.conf")
	d.run(t, first, "cp -a /etc/postgresql/. "+filepath.Join(d.Host(d.other(first)).Dir(), "own/etc/postgresql"))
	d.install(t)
	d.moveOn(t, first)
	next := d.other(first)
	eventually(t, "the database answers on "+next, func() error {
		_, err := d.Host(next).Exec(t.Context(), "pg_isready", "-q")
		return err
	})
	d.does(t, next, `runuser -u postgres -- psql -c "CREATE ROLE app LOGIN PASSWORD 'PASSWORD'"`)
	d.does(t, next, "runuser -u postgres -- createdb --owner=app app")
	_, err := d.sql(t, next, "CREATE TABLE ledger (n bigint PRIMARY KEY, pad text NOT NULL); CREATE INDEX ON ledger (pad); ALTER TABLE ledger OWNER TO app")
	must(t, err)
	d.startLedger(t)
	d.ready(t)
}

// sql asks the database on its own host, as its administrator.
func (d *databaseSite) sql(t *testing.T, host, text string) (string, error) {
	t.Helper()
	out, err := d.Host(host).Exec(within(t), "runuser", "-u", "postgres", "--", postgresProgram(t, "psql"),
		"-h", "/run/postgresql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "app", "-c", text)
	return strings.TrimSpace(out), err
}

// ask is sql on whoever owns; on a busy machine that may have changed again.
func (d *databaseSite) ask(t *testing.T, text string) (answer string) {
	t.Helper()
	eventually(t, "the database answers", func() error {
		var errs []error
		for _, node := range d.owners() {
			out, err := d.sql(t, node, text)
			if err == nil {
				answer = out
				return nil
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
	return answer
}

// commits says why the owner's database takes nothing from the client.
func (d *databaseSite) commits(t *testing.T, owner string) error {
	t.Helper()
	since := clock.Now()
	timer := time.NewTimer(glance)
	defer timer.Stop()
	<-timer.C
	notes := ledgerNotes(t, d.notes)
	if len(notes) == 0 || !since.Before(notes[len(notes)-1].at) {
		return fmt.Errorf("nothing is committed on %s", owner)
	}
	return nil
}

func TestPostgreSQLFollowsTheOwner(t *testing.T) {
	t.Parallel()
	began := time.Now()
	if *databaseTrials == 0 {
		d := newDatabaseSite(t, "ext4")
		t.Logf("%v until the first client was served", time.Since(began))
		for _, tr := range troubles()[:4] {
			d.endBy(t, tr)
		}
		d.conclude(t, began)
		return
	}
	for _, fstype := range []string{"ext4", "xfs"} {
		t.Run(fstype, func(t *testing.T) {
			d := newDatabaseSite(t, fstype)
			for n := range *databaseTrials {
				t.Logf("%d of %d", n+1, *databaseTrials)
				since := time.Now()
				all := slices.DeleteFunc(troubles(), func(tr trouble) bool { return *databaseFault != "" && tr.name != *databaseFault })
				d.endBy(t, all[rand.N(len(all))])
				pause := time.NewTimer(rand.N(3 * time.Second))
				<-pause.C
				d.judgeExample(t, since)
			}
			d.conclude(t, began)
		})
	}
}

// endBy makes trouble for the owner and checks what clients see of it.
func (d *databaseSite) endBy(t *testing.T, tr trouble) {
	t.Helper()
	t.Run(tr.name, func(t *testing.T) {
		began := time.Now()
		d.mendAll(t)
		owner := d.ready(t)
		struck := clock.Now()
		next := d.suffer(t, tr, owner)
		gap := ledgerGap(ledgerNotes(t, d.notes), struck)
		d.gaps[tr.name] = append(d.gaps[tr.name], gap.Round(time.Millisecond))
		d.nothingLost(t)
		if gap > remarkable {
			d.showHistory(t)
			d.showDatabase(t)
		}
		t.Logf("%s → %s: nothing was committed for %v; the whole took %v", owner, next, gap, time.Since(began))
	})
}

// conclude judges the whole, and reports it.
func (d *databaseSite) conclude(t *testing.T, since time.Time) {
	t.Helper()
	if t.Failed() {
		return
	}
	d.judgeExample(t, since)
	d.verify(t)
	for _, tr := range troubles() {
		if gaps := d.gaps[tr.name]; len(gaps) > 0 {
			t.Logf("%-25s %d times, without a commit for %v", tr.name, len(gaps), gaps)
		}
	}
}

// nothingLost checks that the database has every row of which the client was
// told that it is committed.
func (d *databaseSite) nothingLost(t *testing.T) {
	t.Helper()
	notes := ledgerNotes(t, d.notes)
	told := len(notes)
	for i, c := range notes {
		if c.row != i+1 {
			t.Fatalf("the client noted row %d after %d others", c.row, i)
		}
	}
	got := d.ask(t, fmt.Sprintf("SELECT count(*) FROM ledger WHERE n BETWEEN 1 AND %d AND pad = repeat(md5(n::text), 4)", told))
	if got != fmt.Sprint(told) {
		t.Errorf("of %d rows that were committed, %s are there", told, got)
	}
}

// verify checks the database as a whole, with PostgreSQL's own tools: first where it
// runs, and at last the files of one that is stopped.
func (d *databaseSite) verify(t *testing.T) {
	t.Helper()
	d.stopLedger(t)
	d.nothingLost(t)
	notes := ledgerNotes(t, d.notes)
	got := d.ask(t, "SELECT count(*), min(n), max(n) FROM ledger")
	n := len(notes) // and one of which it wasn't told, perhaps
	if got != fmt.Sprintf("%d|1|%d", n, n) && got != fmt.Sprintf("%d|1|%d", n+1, n+1) {
		t.Errorf("after %d rows, the table has (count, first, last) %s", n, got)
	}
	eventually(t, "pg_amcheck finds no fault", func() error {
		_, err := d.Host(d.settled(t)).Exec(within(t), "runuser", "-u", "postgres", "--", postgresProgram(t, "pg_amcheck"),
			"-h", "/run/postgresql", "--all", "--install-missing", "--heapallindexed", "--parent-check", "--rootdescend")
		return err
	})
	d.emptied(t)
	d.checksums(t)
	t.Logf("%d rows, over %d connections, are all there; pg_amcheck and pg_checksums find no fault", n, notes[n-1].connection)
}

// checksums reads every page of a volume that nobody has mounted, on the client.
func (d *databaseSite) checksums(t *testing.T) {
	t.Helper()
	const place = "/mnt" // of the client's own
	d.run(t, lab.ClientName, "mount -o loop "+d.VolumeImage(d.volumes[0].Name)+" "+place)
	defer d.run(t, lab.ClientName, "umount "+place)
	data := filepath.Join(place, d.cluster)
	check := []string{"runuser", "-u", "postgres", "--", postgresProgram(t, "pg_checksums"), "--check", "-D", data}
	out, err := d.Client.Exec(within(t), check...)
	if err != nil && strings.Contains(err.Error(), "must be shut down") {
		// A busy machine has cost the last owner its lease, and its server was killed. On
		// a host that was rebooted no process has that one's number; here its own may be a
		// zombie, which the server takes for one that runs. So it has numbers of its own.
		d.run(t, lab.ClientName, "unshare --pid --fork runuser -u postgres -- "+postgresProgram(t, "postgres")+" --single -c config_file=/dev/null -D "+data+" template1 </dev/null")
		out, err = d.Client.Exec(within(t), check...)
	}
	if err != nil || !strings.Contains(out, "Bad checksums:  0") {
		t.Errorf("pg_checksums says: %v\n%s", err, out)
	}
}

// showDatabase shows the server's logs, the client's and the mounts.
func (d *databaseSite) showDatabase(t *testing.T) {
	t.Helper()
	logs := []string{d.notes + ".log"}
	for _, node := range d.owners() {
		found, err := filepath.Glob(filepath.Join(d.Host(node).Dir(), "own/var/log/postgresql/*"))
		must(t, err)
		logs = append(logs, found...)
	}
	for _, path := range logs {
		showFile(t, path)
	}
}
