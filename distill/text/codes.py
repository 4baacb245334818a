"""Language codes: the forms that data sets write, and the one that we keep.

ISO 639-1 has two letters (sw), ISO 639-2 and 639-3 three (swa, and swh for one of its members), and
a script or region may follow: `eng_Latn` (FLORES, SIB-200, Belebele), `zh-Hans`, `pt-BR`.
"""

from functools import lru_cache

# ISO 639-1 and its three-letter codes, the bibliographic ones too (ger, fre), from Debian's
# iso-codes 4.
_SHORT = (
    "aa=aar ab=abk ae=ave af=afr ak=aka am=amh an=arg ar=ara as=asm av=ava ay=aym az=aze ba=bak "
    "be=bel bg=bul bi=bis bm=bam bn=ben bo=bod,tib br=bre bs=bos ca=cat ce=che ch=cha co=cos "
    "cr=cre cs=ces,cze cu=chu cv=chv cy=cym,wel da=dan de=deu,ger dv=div dz=dzo ee=ewe el=ell,gre "
    "en=eng eo=epo es=spa et=est eu=baq,eus fa=fas,per ff=ful fi=fin fj=fij fo=fao fr=fra,fre "
    "fy=fry ga=gle gd=gla gl=glg gn=grn gu=guj gv=glv ha=hau he=heb hi=hin ho=hmo hr=hrv ht=hat "
    "hu=hun hy=arm,hye hz=her ia=ina id=ind ie=ile ig=ibo ii=iii ik=ipk io=ido is=ice,isl it=ita "
    "iu=iku ja=jpn jv=jav ka=geo,kat kg=kon ki=kik kj=kua kk=kaz kl=kal km=khm kn=kan ko=kor "
    "kr=kau ks=kas ku=kur kv=kom kw=cor ky=kir la=lat lb=ltz lg=lug li=lim ln=lin lo=lao lt=lit "
    "lu=lub lv=lav mg=mlg mh=mah mi=mao,mri mk=mac,mkd ml=mal mn=mon mr=mar ms=may,msa mt=mlt "
    "my=bur,mya na=nau nb=nob nd=nde ne=nep ng=ndo nl=dut,nld nn=nno no=nor nr=nbl nv=nav ny=nya "
    "oc=oci oj=oji om=orm or=ori os=oss pa=pan pi=pli pl=pol ps=pus pt=por qu=que rm=roh rn=run "
    "ro=ron,rum ru=rus rw=kin sa=san sc=srd sd=snd se=sme sg=sag sh=hbs si=sin sk=slk,slo sl=slv "
    "sm=smo sn=sna so=som sq=alb,sqi sr=srp ss=ssw st=sot su=sun sv=swe sw=swa ta=tam te=tel "
    "tg=tgk th=tha ti=tir tk=tuk tl=tgl tn=tsn to=ton tr=tur ts=tso tt=tat tw=twi ty=tah ug=uig "
    "uk=ukr ur=urd uz=uzb ve=ven vi=vie vo=vol wa=wln wo=wol xh=xho yi=yid yo=yor za=zha "
    "zh=chi,zho zu=zul"
)
# Members of macrolanguages (ISO 639-3) that data sets name, and codes of old. Those that the
# classifier knows by themselves (ary, arz, ckb, gug, fuv, uzs, yue) are not here.
_MEMBERS = (
    "ar=arb,acm,acq,aeb,ajp,apc,ars,apd zh=cmn fa=pes ms=zsm,zlm et=ekk lv=lvs ne=npi or=ory uz=uzn "
    "mn=khk az=azj sq=als,aln mg=plt yi=ydd,ji ku=kmr om=gaz,hae qu=quy,quz sw=swh,swc ay=ayr,ayc "
    "ps=pbt,pbu he=iw id=in jv=jw ro=mo"
)
# What the classifier calls a language that it knows under another code, or by a near relative's.
_LABELS = {"fil": "tl", "nb": "no", "gn": "gug", "ff": "fuv", "ki": "kik", "prs": "fa"}


def _by_other_code(table: str) -> dict[str, str]:
    groups = (group.split("=") for group in table.split())
    return {other: code for code, others in groups for other in others.split(",")}


_OURS = _by_other_code(_SHORT) | _by_other_code(_MEMBERS)


def _parts(language: str) -> list[str]:
    return language.strip().replace("_", "-").split("-")


@lru_cache(maxsize=1024)
def base_code(language: str) -> str:
    """Return the code without region and script, of two letters where there is one.

    `pt` for `pt-BR`, `zh` for `zho_Hans`, `sw` for `swh_Latn`.
    """
    code = _parts(language)[0].lower()
    return _OURS.get(code, code)


def subtags(language: str) -> list[str]:
    """Return what follows the code: ["Hans"] for zh-hans, ["BR"] for pt_br."""
    return [part.title() if len(part) == 4 else part.upper() for part in _parts(language)[1:]]


def classifier_label(language: str) -> str:
    """Return what py3langid calls the language: `tl` for fil, else its base code."""
    code = base_code(language)
    return _LABELS.get(code, code)
