package storage

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeHost has an fstab and units of systemd, by their paths below the folder
// with the units' folders. What begins with "->" is a link.
func fakeHost(t *testing.T, fstab string, units map[string]string) host {
	t.Helper()
	dir := t.TempDir()
	h := host{sys: "/sys", fstab: filepath.Join(dir, "fstab")}
	for _, name := range []string{"etc", "run", "usr"} {
		h.units = append(h.units, filepath.Join(dir, name))
	}
	must(t, os.WriteFile(h.fstab, []byte(fstab), 0o600))
	for name, text := range units {
		path := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		if to, ok := strings.CutPrefix(text, "->"); ok {
			must(t, os.Symlink(to, path))
			continue
		}
		must(t, os.WriteFile(path, []byte(text), 0o600))
	}
	return h
}

func TestFstab(t *testing.T) {
	v := Volume{Name: "web", Device: "UUID=2B228FFC", Path: "/srv/web"}
	d := &device{content: content{uuid: "2b228ffc", label: printed("the web"), partID: "77"}, dev: devno{999, 9}, path: "/dev/sdz9"}
	nfs := Volume{Name: "pages", Device: "files:/export/", Path: "/srv/pages", FSType: "nfs4"}
	for _, tc := range []struct {
		name, line, want string // "": accepted
	}{
		{"none", "", ""},
		{"comment", "#/dev/sda1 /srv/web ext4 defaults 0 2", ""},
		{"noauto", "UUID=2b228ffc /srv/web ext4 noatime,noauto 0 0", ""},
		{"another volume", "UUID=3b228ffc /srv/web2 ext4 defaults 0 2", ""},
		{"the place", "/dev/sdx1  /srv/web/ ext4 defaults,noatime 0 2", "/dev/sdx1 /srv/web ext4 noauto,noatime 0 2"},
		{"the device elsewhere", "UUID=2b228ffc /mnt ext4", "UUID=2b228ffc /mnt ext4 noauto"},
		{"another name of it", `LABEL=the\040web /mnt ext4 defaults`, `LABEL=the\040web /mnt ext4 noauto`},
		{"in quotes", `PARTUUID="77" /mnt ext4 ro`, `PARTUUID="77" /mnt ext4 noauto,ro`},
		{"automount", "UUID=2b228ffc /srv/web ext4 noauto,x-systemd.automount,ro 0 0", "UUID=2b228ffc /srv/web ext4 noauto,ro 0 0"},
		{"wanted by another unit", "UUID=2b228ffc /srv/web ext4 noauto,x-systemd.required-by=nginx.service 0 0", "UUID=2b228ffc /srv/web ext4 noauto 0 0"},
		{"old automount", "UUID=2b228ffc /srv/web ext4 comment=systemd.automount,noauto 0 0", "UUID=2b228ffc /srv/web ext4 noauto 0 0"},
	} {
		h := fakeHost(t, "# first\n\n"+tc.line+"\n", nil)
		expectOthers(t, tc.name, h.mountedBySystem(v, d), tc.want, h.fstab+":3")
	}
	h := fakeHost(t, "files:/export /somewhere nfs4 rw 0 0\n", nil)
	expectOthers(t, "a server's", h.mountedBySystem(nfs, nil), "files:/export /somewhere nfs4 noauto,rw 0 0", h.fstab+":1")
	if err := (host{fstab: "/no/such/file"}).mountedBySystem(v, d); err != nil {
		t.Errorf("no fstab at all: %v", err)
	}
}

// expectOthers checks the refusal: what to write instead, and where.
func expectOthers(t *testing.T, name string, err error, want, where string) {
	t.Helper()
	if want == "" {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		return
	}
	if !errors.Is(err, ErrMountedByOthers) || !strings.Contains(err.Error(), where) || !strings.Contains(err.Error(), strings.ReplaceAll(want, `\`, `\\`)) && !strings.Contains(strings.ReplaceAll(err.Error(), `\"`, `"`), want) {
		t.Errorf("%s: %v, want %q at %s", name, err, want, where)
	}
}

func TestUnits(t *testing.T) {
	v := Volume{Name: "web", Device: "UUID=2b228ffc", Path: "/srv/web"}
	d := &device{content: content{uuid: "2b228ffc", label: "web"}}
	const (
		unit  = "[Unit]\n# Where=/elsewhere\n[Mount]\nWhat=LABEL=web\nWhere = /srv/web\n"
		auto  = "[Automount]\nWhere=/srv/web\n"
		other = "[Mount]\nWhere=/srv/other\nWhat=LABEL=other\n"
	)
	for _, tc := range []struct {
		name  string
		units map[string]string
		want  string // the unit; "": accepted
	}{
		{"none", nil, ""},
		{"there, but nobody wants it", map[string]string{"etc/srv-web.mount": unit}, ""},
		{"wanted", map[string]string{"etc/srv-web.mount": unit, "etc/multi-user.target.wants/srv-web.mount": "->../srv-web.mount"}, "srv-web.mount"},
		{"required by what a package brings", map[string]string{"usr/srv-web.mount": unit, "run/x.service.requires/srv-web.mount": "->/x"}, "srv-web.mount"},
		{"automount", map[string]string{"etc/srv-web.mount": unit, "etc/srv-web.automount": auto, "etc/local-fs.target.wants/srv-web.automount": "->x"}, "srv-web.automount"},
		{"the device elsewhere", map[string]string{"etc/mnt.mount": "[Mount]\nWhere=/mnt\nWhat=\"UUID=2b228ffc\"\n", "etc/x.target.wants/mnt.mount": "->x"}, "mnt.mount"},
		{"masked", map[string]string{"etc/srv-web.mount": "->/dev/null", "usr/srv-web.mount": unit, "usr/x.target.wants/srv-web.mount": "->x"}, ""},
		{"another volume", map[string]string{"etc/srv-other.mount": other, "etc/x.target.wants/srv-other.mount": "->x"}, ""},
	} {
		h := fakeHost(t, "", tc.units)
		expectOthers(t, tc.name, h.mountedBySystem(v, d), tc.want, tc.want)
	}
}

// systemd mounts what a service needs before it starts it, noauto or not.
func TestServicesThatNeedAVolume(t *testing.T) {
	v := Volume{Name: "web", Device: "UUID=2b228ffc", Path: "/srv/web"}
	d := &device{content: content{uuid: "2b228ffc"}}
	const (
		line    = "UUID=2b228ffc /srv/web ext4 noauto 0 0\n"
		service = "[Unit]\nRequiresMountsFor=/var/log /srv/web/data\n[Service]\n"
		folder  = "[Service]\n\nWorkingDirectory=-/srv/web\n"
		link    = "etc/multi-user.target.wants/x.service"
	)
	for _, tc := range []struct {
		name, fstab string
		units       map[string]string
		want        string
	}{
		{"started at the boot", line, map[string]string{"usr/x.service": service, link: "->x"}, "x.service:2"},
		{"working folder", line, map[string]string{"usr/x.service": folder, link: "->x"}, "x.service:3"},
		{"started by hooks", line, map[string]string{"usr/x.service": service}, ""},
		{"systemd can't mount it", "", map[string]string{"usr/x.service": service, link: "->x"}, ""},
		{"by a unit that nobody wants", "", map[string]string{"etc/srv-web.mount": "[Mount]\nWhere=/srv/web\n", "usr/x.service": service, link: "->x"}, "x.service:2"},
	} {
		expectOthers(t, tc.name, fakeHost(t, tc.fstab, tc.units).mountedBySystem(v, d), tc.want, tc.want)
	}
}
